// SPDX-License-Identifier: BSD-3-Clause
// The .npy reader and writer: what is written comes back, every element type is read from bytes made by hand, and
// no damaged or hostile file gets past a clear std::runtime_error.
#include "npy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using attend_io::array;
using attend_io::load_npy;
using attend_io::save_npy;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

/// A path of the running test's own, removed with it.
class NpyTest : public testing::Test {
 protected:
  NpyTest() : path_(std::filesystem::path(testing::TempDir()) / name()) {}
  ~NpyTest() override { std::filesystem::remove(path_); }

  static std::string name() {
    auto const* const test = testing::UnitTest::GetInstance()->current_test_info();
    return std::string("attend_") + test->test_suite_name() + "_" + test->name() + ".npy";
  }

  void write(std::string const& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  array load(std::string const& bytes) const {
    write(bytes);
    return load_npy(path_);
  }

  /// The message that the file is refused with, which has to name the file.
  std::string refusal(std::string const& bytes) const {
    write(bytes);
    return refusal();
  }

  std::string refusal() const {
    try {
      load_npy(path_);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

std::string little_endian(std::uint64_t number, int bytes) {
  std::string result;
  for (int i = 0; i < bytes; ++i) result += static_cast<char>(number >> (8 * i) & 0xff);
  return result;
}

std::string file(std::string const& header, std::string const& elements, int version = 1) {
  return "\x93NUMPY" + little_endian(static_cast<std::uint64_t>(version), 2) +
         little_endian(header.size(), version == 1 ? 2 : 4) + header + elements;
}

std::string header(std::string const& descr, std::string const& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }          \n";
}

TEST_F(NpyTest, FloatsComeBackAsWritten) {
  std::vector<float> const values = {
      0.f, -0.f, 1.5f, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::infinity(), 3e38f};
  save_npy(path_, {2, 3}, values);
  array const read = load_npy(path_);
  EXPECT_EQ(read.dtype, "f4");
  EXPECT_THAT(read.shape, ElementsAre(2, 3));
  EXPECT_EQ(read.values<float>(), values);
  EXPECT_EQ(std::filesystem::file_size(path_) % 64, 6 * sizeof(float))
      << "the elements start at a multiple of 64 bytes";
}

TEST_F(NpyTest, DoublesComeBackAsWritten) {
  std::vector<double> const values = {0.1, -1e300, 5e-324};
  save_npy(path_, {3}, values);
  array const read = load_npy(path_);
  EXPECT_EQ(read.dtype, "f8");
  EXPECT_THAT(read.shape, ElementsAre(3));
  EXPECT_EQ(read.values<double>(), values);
}

TEST_F(NpyTest, ASingleNumberHasNoExtents) {
  save_npy(path_, {}, std::vector<double>{42.0});
  array const read = load_npy(path_);
  EXPECT_THAT(read.shape, IsEmpty());
  EXPECT_THAT(read.values<double>(), ElementsAre(42.0));
}

TEST_F(NpyTest, AnExtentMayBeZero) {
  save_npy(path_, {4, 0, 2}, std::vector<float>{});
  array const read = load_npy(path_);
  EXPECT_THAT(read.shape, ElementsAre(4, 0, 2));
  EXPECT_THAT(read.values<float>(), IsEmpty());
}

TEST_F(NpyTest, WritesWhatNumPyWrites) {
  save_npy(path_, {1, 2}, std::vector<float>{1.f, 2.f});
  std::ifstream stream(path_, std::ios::binary);
  std::string const bytes{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_EQ(bytes.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_THAT(bytes.substr(10), StartsWith("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), } "));
  EXPECT_EQ(bytes[127], '\n');
  EXPECT_EQ(bytes.substr(128), std::string("\0\0\x80\x3f\0\0\0\x40", 8));
}

TEST_F(NpyTest, RefusesToWriteWhatDoesNotFitTheShape) {
  EXPECT_THROW(save_npy(path_, {2, 3}, std::vector<float>(5)), std::runtime_error);
  EXPECT_THROW(save_npy(path_, {-1}, std::vector<float>(1)), std::runtime_error);
  EXPECT_THROW(save_npy(path_, std::vector<std::int64_t>(65, 1), std::vector<float>(1)), std::runtime_error);
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_THROW(save_npy(path_ / "below" / "no" / "directory", {1}, std::vector<float>(1)), std::runtime_error);
}

TEST_F(NpyTest, ReadsHalves) {
  // One, minus two, the largest, the smallest, infinity.
  std::string const elements("\x00\x3c\x00\xc0\xff\x7b\x01\x00\x00\x7c", 10);
  array const read = load(file(header("<f2", "(5,)"), elements));
  float const infinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(read.values<float>(), ElementsAre(1.f, -2.f, 65504.f, std::ldexp(1.f, -24), infinity));
  EXPECT_THAT(read.values<double>(), ElementsAre(1., -2., 65504., std::ldexp(1., -24), infinity));
  EXPECT_EQ(read.values<Eigen::half>()[2], Eigen::half(65504.f));
}

TEST_F(NpyTest, ReadsIntegersAndBooleans) {
  EXPECT_THAT(
      load(file(header("<i4", "(2,)"), little_endian(7, 4) + little_endian(0xffffffff, 4))).values<std::int64_t>(),
      ElementsAre(7, -1));
  EXPECT_THAT(load(file(header("<i8", "(1,)"), little_endian(std::uint64_t{1} << 62, 8))).values<std::int64_t>(),
              ElementsAre(std::int64_t{1} << 62));
  EXPECT_THAT(load(file(header("|u1", "(2,)"), "\x01\xff")).values<int>(), ElementsAre(1, 255));
  EXPECT_THAT(load(file(header("|b1", "(3,)"), std::string("\x01\x00\x01", 3))).values<bool>(),
              ElementsAre(true, false, true));
}

TEST_F(NpyTest, ReadsVersionsTwoAndThree) {
  for (int const version : {2, 3}) {
    array const read = load(file(header("<f4", "(1,)"), std::string("\0\0\x80\x3f", 4), version));
    EXPECT_THAT(read.values<float>(), ElementsAre(1.f)) << "version " << version;
  }
}

TEST_F(NpyTest, ReadsKeysInAnyOrderAndEitherQuote) {
  array const read =
      load(file("{\"shape\":(1,1),\"fortran_order\":False,\"descr\":\"<f4\"}\n", std::string("\0\0\x80\x3f", 4)));
  EXPECT_THAT(read.shape, ElementsAre(1, 1));
  EXPECT_THAT(read.values<float>(), ElementsAre(1.f));
}

TEST_F(NpyTest, ConvertsOnlyWithinTheKind) {
  array const floats = load(file(header("<f4", "(1,)"), std::string(4, '\0')));
  EXPECT_THROW(floats.values<int>(), std::runtime_error);
  array const integers = load(file(header("<i4", "(1,)"), std::string(4, '\0')));
  EXPECT_THROW(integers.values<float>(), std::runtime_error);
}

TEST_F(NpyTest, RefusesIntegersThatDoNotFit) {
  array const minus_one = load(file(header("<i8", "(1,)"), little_endian(~std::uint64_t{0}, 8)));
  EXPECT_THAT(minus_one.values<std::int8_t>(), ElementsAre(-1));
  EXPECT_THROW(minus_one.values<std::uint64_t>(), std::runtime_error);
  EXPECT_THROW(minus_one.values<std::uint8_t>(), std::runtime_error);
  EXPECT_THROW(minus_one.values<bool>(), std::runtime_error);
  array const large = load(file(header("<i8", "(1,)"), little_endian(std::uint64_t{1} << 32, 8)));
  EXPECT_THROW(large.values<std::int32_t>(), std::runtime_error);
}

TEST_F(NpyTest, RefusesAFileThatIsNotThere) { EXPECT_THAT(refusal(), HasSubstr("cannot be read")); }

TEST_F(NpyTest, RefusesADirectory) {
  std::filesystem::create_directory(path_);
  EXPECT_THAT(refusal(), HasSubstr("cannot be read"));
}

TEST_F(NpyTest, RefusesOtherFiles) {
  EXPECT_THAT(refusal("PK\x03\x04 an archive"), HasSubstr("expected a .npy file"));
  EXPECT_THAT(refusal(file(header("<f4", "(1,)"), std::string(4, '\0'), 4)),
              HasSubstr("expected version 1.0, 2.0 or 3.0, got 4.0"));
}

TEST_F(NpyTest, RefusesEveryTruncation) {
  for (int const version : {1, 2}) {
    std::string const whole = file(header("<f4", "(2, 2)"), std::string(16, '\0'), version);
    ASSERT_NO_THROW(load(whole));
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_NE(refusal(whole.substr(0, size)), "not refused") << size << " bytes of version " << version;
  }
}

TEST_F(NpyTest, RefusesElementsBehindTheLast) {
  EXPECT_THAT(refusal(file(header("<f4", "(1,)"), std::string(5, '\0'))),
              HasSubstr("expected 4 bytes of elements for the shape, got 5"));
}

TEST_F(NpyTest, RefusesAHeaderLongerThanTheFile) {
  std::string const bytes = "\x93NUMPY" + little_endian(2, 2) + little_endian(0xffffffff, 4) + "{}";
  EXPECT_THAT(refusal(bytes), HasSubstr("expected a header of 4294967295 bytes, got 2"));
}

TEST_F(NpyTest, RefusesAShapeThatTheFileDoesNotFill) {
  EXPECT_THAT(refusal(file(header("<f4", "(1000000000000,)"), "")), HasSubstr("expected 4000000000000 bytes"));
}

TEST_F(NpyTest, RefusesAShapeWhoseProductOverflows) {
  // 2^32 * 2^32 would wrap around to no elements at all, 2^61 * 8 bytes to no bytes.
  EXPECT_THAT(refusal(file(header("<u1", "(4294967296, 4294967296)"), "")), HasSubstr("overflows"));
  EXPECT_THAT(refusal(file(header("<f8", "(2305843009213693952,)"), "")), HasSubstr("overflows"));
  EXPECT_THAT(refusal(file(header("<f4", "(99999999999999999999,)"), "")), HasSubstr("expected an extent"));
}

TEST_F(NpyTest, RefusesNegativeExtents) {
  EXPECT_THAT(refusal(file(header("<f4", "(-1, -4)"), std::string(16, '\0'))),
              HasSubstr("expected extents of at least 0, got -1"));
}

TEST_F(NpyTest, RefusesTooManyExtents) {
  std::string shape = "(";
  for (int i = 0; i < 65; ++i) shape += "1, ";
  EXPECT_THAT(refusal(file(header("<f4", shape + ")"), std::string(4, '\0'))), HasSubstr("at most 64 extents"));
}

TEST_F(NpyTest, RefusesFortranOrder) {
  EXPECT_THAT(refusal(file("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }\n", std::string(4, '\0'))),
              HasSubstr("expected C order"));
}

TEST_F(NpyTest, RefusesOtherElementTypes) {
  for (std::string const descr : {">f4", "=f4", "|f4", "f4", "<c8", "<U4", "|O", "<f16", "<", ""})
    EXPECT_THAT(refusal(file(header(descr, "(1,)"), std::string(4, '\0'))),
                AllOf(HasSubstr("expected dtype"), HasSubstr("got '" + descr + "'")));
  EXPECT_THAT(refusal(file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", std::string(4, '\0'))),
              HasSubstr("expected a string"));
}

TEST_F(NpyTest, RefusesDamagedHeaders) {
  for (std::string const text : {
           "",
           "   \n",
           "{",
           "}",
           "{}",
           "[]",
           "{'descr'",
           "{'descr",
           "{'descr':",
           "{'descr': '<f4'}",
           "{'descr': '<f4",
           "{descr: '<f4'}",
           "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': }",
           "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1.0,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} and more",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)",
           "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
       })
    EXPECT_THAT(refusal(file(text, std::string(4, '\0'))), HasSubstr("header: ")) << text;
}

TEST_F(NpyTest, AHostileFileCannotFloodTheMessage) {
  EXPECT_LT(refusal(file(header(std::string(60000, 'x'), "(1,)"), "")).size(), path_.string().size() + 200);
}

}  // namespace
