// SPDX-License-Identifier: BSD-3-Clause
// The .safetensors reader: every element type from bytes made by hand, and no damaged or hostile file gets past a
// clear std::runtime_error.
#include "safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using attend_io::safetensors;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

static_assert(!std::is_copy_constructible_v<safetensors>, "a copy's views would point into the original");

/// A path of the running test's own, removed with it.
class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() : path_(std::filesystem::path(testing::TempDir()) / name()) {}
  ~SafetensorsTest() override { std::filesystem::remove(path_); }

  static std::string name() {
    auto const* const test = testing::UnitTest::GetInstance()->current_test_info();
    return std::string("attend_") + test->test_suite_name() + "_" + test->name() + ".safetensors";
  }

  void write(std::string const& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  safetensors load(std::string const& bytes) const {
    write(bytes);
    return safetensors(path_);
  }

  /// The message that the file is refused with, which has to name the file.
  std::string refusal(std::string const& bytes) const {
    write(bytes);
    return refusal();
  }

  std::string refusal() const {
    try {
      safetensors const unexpected(path_);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

template <class T>
std::string bytes_of(std::vector<T> const& values) {
  std::string result(values.size() * sizeof(T), '\0');
  std::memcpy(result.data(), values.data(), result.size());
  return result;
}

std::string file(std::string const& header, std::string const& data) {
  return bytes_of(std::vector<std::uint64_t>{header.size()}) + header + data;
}

std::string entry(std::string const& name, std::string const& dtype, std::string const& shape,
                  std::string const& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

/// A file with one tensor, x.
std::string single(std::string const& dtype, std::string const& shape, std::string const& data) {
  return file("{" + entry("x", dtype, shape, "[0," + std::to_string(data.size()) + "]") + "}", data);
}

TEST_F(SafetensorsTest, FindsTensorsAndMetadata) {
  std::vector<float> const matrix = {1.f, 2.f, 3.f, 4.f, 5.f, 6.f};
  std::vector<std::int64_t> const ids = {101, -1};
  safetensors const read =
      load(file("{\"__metadata__\":{\"format\":\"pt\"}," + entry("matrix", "F32", "[2,3]", "[16,40]") + "," +
                    entry("ids", "I64", "[2]", "[0,16]") + "}   ",
                bytes_of(ids) + bytes_of(matrix)));

  EXPECT_EQ(read.file(), path_.string());
  EXPECT_THAT(read.metadata(), ElementsAre(std::pair("format", "pt")));
  EXPECT_THAT(read.tensors(), SizeIs(2));
  EXPECT_TRUE(read.contains("matrix"));
  EXPECT_EQ(read.at("matrix").dtype, "F32");
  EXPECT_THAT(read.at("matrix").shape, ElementsAre(2, 3));
  EXPECT_THAT(read.at("matrix").bytes, SizeIs(24));
  EXPECT_EQ(read.values<float>("matrix"), matrix);
  EXPECT_EQ(read.values<std::int64_t>("ids"), ids);
}

TEST_F(SafetensorsTest, ReadsEveryFloatingType) {
  float const infinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(load(single("F64", "[2]", bytes_of<double>({0.1, -1e300}))).values<double>("x"),
              ElementsAre(0.1, -1e300));
  EXPECT_THAT(load(single("F64", "[1]", bytes_of<double>({0.1}))).values<float>("x"), ElementsAre(0.1f));
  EXPECT_THAT(load(single("F32", "[1]", bytes_of<float>({0.1f}))).values<double>("x"), ElementsAre(double{0.1f}));
  // One, minus two, the largest, the smallest, infinity.
  safetensors const halves =
      load(single("F16", "[5]", bytes_of<std::uint16_t>({0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00})));
  EXPECT_THAT(halves.values<float>("x"), ElementsAre(1.f, -2.f, 65504.f, std::ldexp(1.f, -24), infinity));
  EXPECT_EQ(halves.values<Eigen::half>("x")[2], Eigen::half(65504.f));
  // One, minus two, one and an ulp, 2^-133, infinity.
  safetensors const brains =
      load(single("BF16", "[5]", bytes_of<std::uint16_t>({0x3f80, 0xc000, 0x3f81, 0x0001, 0x7f80})));
  EXPECT_THAT(brains.values<double>("x"), ElementsAre(1., -2., 1.0078125, std::ldexp(1., -133), infinity));
  EXPECT_EQ(brains.values<Eigen::bfloat16>("x")[2], Eigen::bfloat16(1.0078125f));
}

TEST_F(SafetensorsTest, ReadsEveryIntegerType) {
  EXPECT_THAT(load(single("I64", "[1]", bytes_of<std::int64_t>({std::int64_t{1} << 62}))).values<std::int64_t>("x"),
              ElementsAre(std::int64_t{1} << 62));
  EXPECT_THAT(load(single("I32", "[2]", bytes_of<std::int32_t>({7, -1}))).values<std::int64_t>("x"),
              ElementsAre(7, -1));
  EXPECT_THAT(load(single("U8", "[2]", "\x01\xff")).values<int>("x"), ElementsAre(1, 255));
  EXPECT_THAT(load(single("BOOL", "[2]", std::string("\x01\x00", 2))).values<bool>("x"), ElementsAre(true, false));
}

TEST_F(SafetensorsTest, ReadsNumbersAndEmptyTensorsAndEmptyFiles) {
  safetensors const number = load(single("F32", "[]", bytes_of<float>({42.f})));
  EXPECT_THAT(number.at("x").shape, IsEmpty());
  EXPECT_THAT(number.values<float>("x"), ElementsAre(42.f));

  // Empty tensors may stand anywhere, several at one offset.
  safetensors const empty =
      load(file("{" + entry("a", "F32", "[3,0]", "[0,0]") + "," + entry("b", "U8", "[1]", "[0,1]") + "," +
                    entry("c", "F32", "[0]", "[1,1]") + "," + entry("d", "F32", "[0]", "[1,1]") + "}",
                "z"));
  EXPECT_THAT(empty.at("a").shape, ElementsAre(3, 0));
  EXPECT_THAT(empty.values<float>("c"), IsEmpty());

  EXPECT_THAT(load(file("{}", "")).tensors(), IsEmpty());
}

TEST_F(SafetensorsTest, ReadsElementsAtAnyOffset) {
  safetensors const read =
      load(file("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F64", "[1]", "[1,9]") + "}",
                "z" + bytes_of<double>({0.5})));
  EXPECT_THAT(read.values<double>("b"), ElementsAre(0.5));
}

TEST_F(SafetensorsTest, StaysWholeWhenMoved) {
  safetensors original = load(single("F32", "[2]", bytes_of<float>({1.f, 2.f})));
  safetensors const moved = std::move(original);
  EXPECT_THAT(moved.values<float>("x"), ElementsAre(1.f, 2.f));
}

TEST_F(SafetensorsTest, RefusesANameThatIsNotThere) {
  safetensors const read = load(single("F32", "[1]", bytes_of<float>({1.f})));
  EXPECT_FALSE(read.contains("y"));
  EXPECT_THROW(read.at("y"), std::runtime_error);
  EXPECT_THROW(read.values<float>("y"), std::runtime_error);
}

TEST_F(SafetensorsTest, ConvertsOnlyWithinTheKind) {
  EXPECT_THROW(load(single("F32", "[1]", bytes_of<float>({1.f}))).values<int>("x"), std::runtime_error);
  EXPECT_THROW(load(single("I32", "[1]", bytes_of<std::int32_t>({1}))).values<float>("x"), std::runtime_error);
}

TEST_F(SafetensorsTest, RefusesIntegersThatDoNotFit) {
  safetensors const minus_one = load(single("I64", "[1]", bytes_of<std::int64_t>({-1})));
  EXPECT_THAT(minus_one.values<std::int8_t>("x"), ElementsAre(-1));
  EXPECT_THROW(minus_one.values<std::uint64_t>("x"), std::runtime_error);
  EXPECT_THROW(minus_one.values<std::uint8_t>("x"), std::runtime_error);
  EXPECT_THROW(minus_one.values<bool>("x"), std::runtime_error);
  EXPECT_THROW(load(single("I64", "[1]", bytes_of<std::int64_t>({std::int64_t{1} << 32}))).values<std::int32_t>("x"),
               std::runtime_error);
  EXPECT_THROW(load(single("BOOL", "[1]", "\x02")).values<bool>("x"), std::runtime_error);
}

TEST_F(SafetensorsTest, RefusesAFileThatIsNotThere) { EXPECT_THAT(refusal(), HasSubstr("cannot be read")); }

TEST_F(SafetensorsTest, RefusesADirectory) {
  std::filesystem::create_directory(path_);
  EXPECT_THAT(refusal(), HasSubstr("cannot be read"));
}

TEST_F(SafetensorsTest, RefusesEveryTruncation) {
  std::string const whole = single("F32", "[2,2]", std::string(16, '\0'));
  ASSERT_NO_THROW(load(whole));
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(refusal(whole.substr(0, size)), "not refused") << size << " bytes";
}

TEST_F(SafetensorsTest, RefusesAHeaderLongerThanTheFile) {
  EXPECT_THAT(refusal(bytes_of<std::uint64_t>({3}) + "{}"), HasSubstr("expected a header of 3 bytes, got 2"));
  // Eight more than this wraps around to 7.
  EXPECT_THAT(refusal(bytes_of<std::uint64_t>({~std::uint64_t{0}}) + "{}"),
              HasSubstr("expected a header of at most 100000000 bytes"));
  EXPECT_THAT(refusal(bytes_of<std::uint64_t>({100'000'001}) + "{}"),
              HasSubstr("expected a header of at most 100000000 bytes"));
}

TEST_F(SafetensorsTest, RefusesHeadersThatAreNotAnObject) {
  for (std::string const text :
       {"", " ", "{", "}", "[]", "1", "\"x\"", "null", "{\"x\":}", "{} {}", "{\"\xff\":{}}", "{\"x\":1e999}"})
    EXPECT_THAT(refusal(file(text, "")), HasSubstr("header: expected")) << text;
}

TEST_F(SafetensorsTest, RefusesDeepNesting) {
  EXPECT_THAT(refusal(file("{\"x\":{\"shape\":" + std::string(100000, '['), "")), HasSubstr("levels of nesting"));
  EXPECT_THAT(refusal(file(std::string(100000, '['), "")), HasSubstr("levels of nesting"));
}

TEST_F(SafetensorsTest, RefusesANameTwice) {
  EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[1]", "[0,1]") + "," + entry("x", "U8", "[1]", "[0,1]") + "}", "z")),
              HasSubstr("'x' twice"));
}

TEST_F(SafetensorsTest, RefusesTensorsWithoutADescription) {
  for (std::string const text :
       {"{\"x\":1}", "{\"x\":[]}", "{\"x\":{}}", "{\"x\":{\"dtype\":\"F32\"}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[0]}}", "{\"x\":{\"shape\":[0],\"data_offsets\":[0,0]}}"})
    EXPECT_THAT(refusal(file(text, "")), HasSubstr("tensor 'x': expected an object with ")) << text;
}

TEST_F(SafetensorsTest, RefusesOtherElementTypes) {
  for (std::string const dtype : {"", "f32", "F8_E4M3", "U64", "C64"})
    EXPECT_THAT(refusal(single(dtype, "[1]", std::string(4, '\0'))), HasSubstr("tensor 'x': expected dtype")) << dtype;
  EXPECT_THAT(refusal(file("{\"x\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", std::string(4, '\0'))),
              HasSubstr("expected dtype"));
}

TEST_F(SafetensorsTest, RefusesShapesThatAreNotCounts) {
  for (std::string const shape :
       {"[-1]", "[-2,-2]", "[1.0]", "[\"1\"]", "[null]", "[[4]]", "[9223372036854775808]", "[99999999999999999999]"})
    EXPECT_THAT(refusal(single("U8", shape, std::string(4, '\0'))), HasSubstr("expected")) << shape;
  for (std::string const shape : {"4", "\"4\"", "{}", "null"})
    EXPECT_THAT(refusal(single("U8", shape, std::string(4, '\0'))), HasSubstr("expected an array for shape")) << shape;
}

TEST_F(SafetensorsTest, RefusesAShapeWhoseProductOverflows) {
  // 2^32 * 2^32 would wrap around to no elements at all, 2^61 * 8 bytes to no bytes.
  EXPECT_THAT(refusal(single("U8", "[4294967296,4294967296]", "")), HasSubstr("overflows"));
  EXPECT_THAT(refusal(single("F64", "[2305843009213693952]", "")), HasSubstr("overflows"));
}

TEST_F(SafetensorsTest, RefusesShapesThatDoNotFitTheOffsets) {
  EXPECT_THAT(refusal(single("F32", "[2]", std::string(4, '\0'))),
              HasSubstr("expected 8 bytes for its shape and dtype, got 4"));
  EXPECT_THAT(refusal(single("F32", "[1]", std::string(8, '\0'))),
              HasSubstr("expected 4 bytes for its shape and dtype, got 8"));
}

TEST_F(SafetensorsTest, RefusesOffsetsOutsideTheData) {
  EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[4]", "[0,4]") + "}", "abc")),
              HasSubstr("within 3 bytes of data, got 0 to 4"));
  EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[1]", "[2,1]") + "}", "abc")), HasSubstr("got 2 to 1"));
  EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[1]", "[9223372036854775806,9223372036854775807]") + "}", "abc")),
              HasSubstr("within 3 bytes"));
  for (std::string const offsets : {"[-1,0]", "[0,1.0]", "[0,18446744073709551615]"})
    EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[1]", offsets) + "}", "a")), HasSubstr("in data_offsets"))
        << offsets;
  for (std::string const offsets : {"[]", "[0]", "[0,1,1]", "1", "{}"})
    EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[1]", offsets) + "}", "a")),
                HasSubstr("two numbers for data_offsets"))
        << offsets;
}

TEST_F(SafetensorsTest, RefusesGapsAndOverlaps) {
  EXPECT_THAT(
      refusal(file("{" + entry("x", "U8", "[2]", "[0,2]") + "," + entry("y", "U8", "[2]", "[1,3]") + "}", "abc")),
      HasSubstr("expected a tensor to start at data offset 2, got one that starts at 1"));
  EXPECT_THAT(
      refusal(file("{" + entry("x", "U8", "[1]", "[0,1]") + "," + entry("y", "U8", "[1]", "[2,3]") + "}", "abc")),
      HasSubstr("expected a tensor to start at data offset 1, got one that starts at 2"));
  EXPECT_THAT(refusal(file("{" + entry("x", "U8", "[1]", "[0,1]") + "}", "abc")),
              HasSubstr("3 bytes of data, got tensors for 1"));
  EXPECT_THAT(refusal(file("{}", "abc")), HasSubstr("3 bytes of data, got tensors for 0"));
}

TEST_F(SafetensorsTest, RefusesMetadataThatIsNotText) {
  EXPECT_THAT(refusal(file("{\"__metadata__\":1}", "")), HasSubstr("__metadata__: expected an object"));
  EXPECT_THAT(refusal(file("{\"__metadata__\":{\"format\":1}}", "")),
              HasSubstr("__metadata__: expected a string for 'format'"));
}

TEST_F(SafetensorsTest, AHostileFileCannotFloodTheMessage) {
  std::string const long_name(100000, 'x');
  EXPECT_LT(refusal(file("{\"" + long_name + "\":1}", "")).size(), path_.string().size() + 400);
  EXPECT_LT(refusal(file("\"" + long_name, "")).size(), path_.string().size() + 400);
  EXPECT_LT(refusal(single(long_name, "[1]", "z")).size(), path_.string().size() + 400);
}

}  // namespace
