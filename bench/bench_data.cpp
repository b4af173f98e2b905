// SPDX-License-Identifier: BSD-3-Clause
// The same call on other numbers: data/.../normal, peaked, small, tiny, subnormal, zero_tail (data_class.hpp).
#include "benchmarks.hpp"
#include "data_rows.hpp"

namespace attend_bench {

void register_data() {
  for (data_row const& row : all_data_rows())
    for (data_class const data : data_classes) {
      attention_benchmark what = row.what;
      what.family += std::string("/") + name_of(data);
      what.prepare = [prepare = row.prepare, data] { return prepare(data); };
      register_attention(what, {1});
    }
}

}  // namespace attend_bench
