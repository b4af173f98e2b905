// SPDX-License-Identifier: BSD-3-Clause
// The calls whose time is held against the data that they get: each engine and form with a row or two.
#pragma once

#include <functional>
#include <vector>

#include "attention_benchmark.hpp"
#include "data_class.hpp"

namespace attend_bench {

struct data_row {
  attention_benchmark what;  // but for prepare
  std::function<attention_call(data_class)> prepare;
};

std::vector<data_row> softmax_data_rows();
std::vector<data_row> state_data_rows();
std::vector<data_row> cache_data_rows();

inline std::vector<data_row> all_data_rows() {
  std::vector<data_row> all;
  for (auto const list : {softmax_data_rows, cache_data_rows, state_data_rows})
    for (data_row& row : list()) all.push_back(std::move(row));
  return all;
}

}  // namespace attend_bench
