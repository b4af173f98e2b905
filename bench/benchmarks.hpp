// SPDX-License-Identifier: BSD-3-Clause
// The benchmarks of attend_bench, one function for each idea.
#pragma once

namespace attend_bench {

void register_prefill();
void register_encoder();
void register_window();
void register_short();
void register_few_queries();
void register_caches();
void register_decode();
void register_decode_steps();
void register_policies();
void register_statistics();
void register_selective();
void register_latent();
void register_rotary();
void register_unequal_heads();
void register_longca();
void register_backward();
void register_linear();
void register_linear_systems();
void register_select_graphs();
void register_select_pages();
void register_select_spans();
void register_select_tokens();
void register_select_kept();
void register_data();

}  // namespace attend_bench
