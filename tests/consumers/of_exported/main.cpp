// SPDX-License-Identifier: BSD-3-Clause
#include <exported.hpp>

int main() {
  float const number = 2;
  return exported::first_element({&number, {1, 1, 1, 1}}) == 2 ? 0 : 1;
}
