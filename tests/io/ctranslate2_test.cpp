// SPDX-License-Identifier: BSD-3-Clause
// The reader of CTranslate2's model.bin: every element type from bytes made by hand, and no damaged or hostile file
// gets past a clear std::runtime_error.
#include "ctranslate2.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using attend_io::ctranslate2_model;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

static_assert(!std::is_copy_constructible_v<ctranslate2_model>, "a copy's views would point into the original");

template <class T>
std::string bytes_of(std::vector<T> const& values) {
  std::string result(values.size() * sizeof(T), '\0');
  std::memcpy(result.data(), values.data(), result.size());
  return result;
}

std::string number(std::uint32_t value) { return bytes_of<std::uint32_t>({value}); }

std::string text(std::string const& characters) {
  return bytes_of<std::uint16_t>({static_cast<std::uint16_t>(characters.size() + 1)}) + characters + '\0';
}

std::string array(std::string const& name, std::vector<std::uint32_t> const& shape, int type, std::string const& data) {
  return text(name) + static_cast<char>(shape.size()) + bytes_of(shape) + static_cast<char>(type) +
         number(static_cast<std::uint32_t>(data.size())) + data;
}

std::string file(std::vector<std::string> const& arrays, std::vector<std::string> const& aliases = {}) {
  std::string result = number(6) + text("WhisperSpec") + number(3) + number(static_cast<std::uint32_t>(arrays.size()));
  for (std::string const& one : arrays) result += one;
  result += number(static_cast<std::uint32_t>(aliases.size()));
  for (std::string const& one : aliases) result += one;
  return result;
}

class Ctranslate2Test : public testing::Test {
 protected:
  Ctranslate2Test() : path_(std::filesystem::path(testing::TempDir()) / name()) {}
  ~Ctranslate2Test() override { std::filesystem::remove(path_); }

  static std::string name() {
    return std::string("attend_ctranslate2_") + testing::UnitTest::GetInstance()->current_test_info()->name();
  }

  ctranslate2_model load(std::string const& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return ctranslate2_model(path_);
  }

  /// The message that the file is refused with, which has to name the file.
  std::string refusal(std::string const& bytes) const {
    try {
      load(bytes);
    } catch (std::runtime_error const& error) {
      EXPECT_THAT(error.what(), StartsWith(path_.string()));
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

TEST_F(Ctranslate2Test, ReadsEveryType) {
  auto const model = load(file(
      {array("float32", {2, 1}, 0, bytes_of<float>({1, -2})), array("int8", {}, 1, bytes_of<std::int8_t>({-3})),
       array("int16", {1}, 2, bytes_of<std::int16_t>({300})), array("int32", {1}, 3, bytes_of<std::int32_t>({70000})),
       array("float16", {2}, 4, bytes_of<std::uint16_t>({0x3C00, 0xC000})),
       array("bfloat16", {2}, 5, bytes_of<std::uint16_t>({0x3F80, 0xC000})), array("none", {0, 4}, 0, "")}));
  EXPECT_EQ(model.specification(), "WhisperSpec");
  EXPECT_THAT(model.arrays(), SizeIs(7));
  EXPECT_THAT(model.at("float32").shape, ElementsAre(2, 1));
  for (char const* name : {"float32", "float16", "bfloat16"}) {
    EXPECT_EQ(model.at(name).type, name);
    EXPECT_THAT(model.values<float>(name), ElementsAre(1, -2)) << name;
  }
  EXPECT_THAT(model.values<int>("int8"), ElementsAre(-3));
  EXPECT_THAT(model.values<int>("int16"), ElementsAre(300));
  EXPECT_THAT(model.values<std::int64_t>("int32"), ElementsAre(70000));
  EXPECT_THAT(model.values<float>("none"), SizeIs(0));
  EXPECT_THROW(model.values<std::int16_t>("int32"), std::runtime_error);  // 70000 does not fit
  EXPECT_THROW(model.values<float>("int8"), std::runtime_error);
  EXPECT_THROW(model.values<int>("float32"), std::runtime_error);
  EXPECT_THROW(model.at("other"), std::runtime_error);
}

TEST_F(Ctranslate2Test, FindsArraysByTheirAliases) {
  auto const model = load(file({array("a", {1}, 0, bytes_of<float>({7}))}, {text("b") + text("a")}));
  EXPECT_THAT(model.values<float>("b"), ElementsAre(7));
}

TEST_F(Ctranslate2Test, RefusesFilesThatEndEarly) {
  std::string const whole =
      file({array("a", {2}, 0, bytes_of<float>({1, 2})), array("b", {}, 1, "x")}, {text("c") + text("a")});
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(refusal(whole.substr(0, size)), HasSubstr("truncated: expected")) << size << " bytes";
  EXPECT_THAT(refusal(whole + "x"), HasSubstr("expected nothing behind the aliases, got 1 bytes"));
  EXPECT_THROW(ctranslate2_model{path_.string() + ".none"}, std::runtime_error);
  EXPECT_THROW(ctranslate2_model{testing::TempDir()}, std::runtime_error);
}

/// Whatever one byte of a file becomes, the reader answers, with a model or a refusal.
TEST_F(Ctranslate2Test, SurvivesEveryChangedByte) {
  std::string const whole = file({array("a", {2, 1}, 4, bytes_of<std::uint16_t>({1, 2}))}, {text("c") + text("a")});
  for (std::size_t place = 0; place < whole.size(); ++place)
    for (int const value : {0, 1, 0x7F, 0x80, 0xFF}) {
      std::string damaged = whole;
      damaged[place] = static_cast<char>(value);
      refusal(damaged);
    }
}

TEST_F(Ctranslate2Test, TakesNoMemoryForSizesThatTheFileDoesNotHave) {
  std::string const big = number(0xFFFFFFFF);
  // Extents whose product is 0 in 64 bits, and one that the number of bytes agrees with.
  std::vector<std::uint32_t> const overflowing(4, 0x10000);
  EXPECT_THAT(refusal(file({array("a", overflowing, 0, "")})), HasSubstr("array 'a': expected at most"));
  EXPECT_THAT(refusal(file({text("a") + '\1' + number(0xFFFFFFFF) + '\1' + big})), HasSubstr("elements"));
  EXPECT_THAT(refusal(file({text("a") + '\1' + number(40) + '\1' + number(40)})),
              HasSubstr("array 'a': the elements, got"));
  EXPECT_THAT(refusal(number(6) + text("x") + number(1) + big), HasSubstr("truncated"));
  EXPECT_THAT(refusal(file({}).substr(0, 28) + big), HasSubstr("truncated"));
  EXPECT_THAT(refusal(file({bytes_of<std::uint16_t>({0xFFFF})})), HasSubstr("expected 65535 bytes for the name"));
}

TEST_F(Ctranslate2Test, RefusesWhatContradictsItself) {
  EXPECT_THAT(refusal(number(5) + text("x")), HasSubstr("expected version 6 of CTranslate2's format, got 5"));
  EXPECT_THAT(refusal(file({array("a", {2}, 0, "four")})), HasSubstr("expected 8 bytes for its shape and type, got 4"));
  EXPECT_THAT(refusal(file({array("a", {4}, 6, "four")})), HasSubstr("expected a type from 0 to 5, got 6"));
  EXPECT_THAT(refusal(file({array("a", {4}, 1, "four"), array("a", {4}, 1, "five")})), HasSubstr("'a' twice"));
  EXPECT_THAT(refusal(file({array("a", {4}, 1, "four")}, {text("a") + text("a")})), HasSubstr("'a' twice"));
  EXPECT_THAT(refusal(file({}, {text("b") + text("a")})), HasSubstr("expected an array 'a', got none"));
  EXPECT_THAT(refusal(file({bytes_of<std::uint16_t>({2}) + "ab"})), HasSubstr("expected one zero at the end"));
  EXPECT_THAT(refusal(file({bytes_of<std::uint16_t>({0})})), HasSubstr("expected one zero at the end"));
}

}  // namespace
