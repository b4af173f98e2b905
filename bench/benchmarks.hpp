// The benchmarks of attend_bench, one function for each idea.
#pragma once

namespace attend_bench {

void register_prefill();
void register_encoder();
void register_window();
void register_short();
void register_few_queries();
void register_policies();
void register_selective();
void register_linear();
void register_linear_systems();

}  // namespace attend_bench
