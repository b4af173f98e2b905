// SPDX-License-Identifier: BSD-3-Clause
// Tables as text and as CSV, and what logits say of the next token.
#include "table.hpp"

#include "logits.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <stdexcept>

namespace {

using attend_io::table;

TEST(Tables, AlignColumnsAndQuoteCells) {
  table results({"cache", "bytes"});
  results.add({"paged, int8", "128"});
  results.add({"a \"b\"", attend_io::fixed(1.25, 1)});
  EXPECT_EQ(results.text(),
            "cache        bytes\n"
            "paged, int8    128\n"
            "a \"b\"          1.2\n");
  EXPECT_EQ(results.csv(), "cache,bytes\n\"paged, int8\",128\n\"a \"\"b\"\"\",1.2\n");
}

TEST(Tables, RefuseRowsThatDoNotFitAndFilesThatCannotBeWritten) {
  table results({"cache", "bytes"});
  EXPECT_THROW(results.add({"one"}), std::invalid_argument);
  EXPECT_THROW(results.write_csv(std::filesystem::path(testing::TempDir()) / "no" / "such" / "folder.csv"),
               std::runtime_error);
}

TEST(Logits, GiveTheLikeliestTokenAndProbabilities) {
  Eigen::RowVectorXf logits(4);
  logits << 1, 3, -INFINITY, 3;
  EXPECT_EQ(attend_io::likeliest(logits), 1) << "the first of equals";
  double const sum = std::exp(1.0) + 2 * std::exp(3.0);
  EXPECT_NEAR(attend_io::log_probability(logits, 0), 1 - std::log(sum), 1e-12);
  EXPECT_NEAR(attend_io::log_probability(logits, 3), 3 - std::log(sum), 1e-12);
  EXPECT_EQ(attend_io::log_probability(logits, 2), -INFINITY);
  logits.array() += 1000;  // exp(1000) is no number
  EXPECT_NEAR(attend_io::log_probability(logits, 0), 1 - std::log(sum), 1e-12);
}

}  // namespace
