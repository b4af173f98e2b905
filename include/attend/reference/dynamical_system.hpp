// SPDX-License-Identifier: BSD-3-Clause
// The recurrence that linear attention, state space models and recurrent networks have in common, in double:
//
//   h_i = L_i h_{i-1} + B_i u_i        y_i = C_i h_i + D_i u_i        h_{-1} = 0
//
// with a diagonal L_i. A state of N rows and as many columns as the input u has numbers: the same L, B and C for all
// columns, so that h_i = diag(l_i) h_{i-1} + b_i u_i^T, y_i = c_i^T h_i + d_i u_i. A system says its l, b, c and d:
//
//   linear attention              l = 1                          b = phi(k_i)                    c = phi(q_i)
//   its normalized form           l = eta_{i-1} / eta_i          b = phi(k_i) / eta_i            c = phi(q_i)
//   gated linear attention        l = alpha_i                    b = k_i                         c = q_i
//   selective state space (SSD)   l = exp(-Delta_i a)            b = Delta_i b_i                 c = c_i
//   softmax over time             l = exp(z_{i-1} - z_i)         b = exp(k_i - z_i)              c = w(q_i)
//
// Jerome Sieber, Carmen Amo Alonso, Alexandre Didier, Melanie Zeilinger, Antonio Orvieto: Understanding the differences
// in Foundation Models: Attention, State Space Models, and Recurrent Neural Networks, 2024.
#pragma once

#include <functional>
#include <vector>

#include "kernel_attention.hpp"

namespace attend::inline ATTEND_TARGET::reference {

struct dynamical_system {
  std::function<row(index_t)> transition, input, readout;  // l, b, c at step i
  std::function<double(index_t)> passing;                  // d at step i; none without it
};

/// The outputs for the inputs u, row by row.
inline std::vector<row> run(dynamical_system const& system, std::vector<row> const& inputs) {
  std::vector<row> state, outputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    index_t const step = static_cast<index_t>(i);
    row const l = system.transition(step), b = system.input(step), c = system.readout(step);
    if (i == 0) state.assign(l.size(), row(inputs[0].size()));
    row y(inputs[i].size());
    for (std::size_t n = 0; n < l.size(); ++n)
      for (std::size_t column = 0; column < y.size(); ++column) {
        // A transition of 0 forgets whatever was there.
        state[n][column] = (l[n] == 0 ? 0.0 : l[n] * state[n][column]) + b[n] * inputs[i][column];
        y[column] += c[n] * state[n][column];
      }
    for (std::size_t column = 0; system.passing && column < y.size(); ++column)
      y[column] += system.passing(step) * inputs[i][column];
    outputs.push_back(y);
  }
  return outputs;
}

}  // namespace attend::inline ATTEND_TARGET::reference
