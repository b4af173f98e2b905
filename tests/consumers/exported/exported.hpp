// SPDX-License-Identifier: BSD-3-Clause
// A library's interface that names attend's types.
#pragma once

#include <attend/core/tensor_view.hpp>

namespace exported {

float first_element(attend::tensor_view<float const, 4> const& tensor);

}  // namespace exported
