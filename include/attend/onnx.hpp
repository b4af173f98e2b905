// SPDX-License-Identifier: BSD-3-Clause
// The operators of ONNX and of ONNX Runtime as one call each, with their own attributes, defaults and layouts. It is
// not in attend.hpp: the namespace attend::onnx would meet that of ONNX's own library where somebody uses all of
// attend.
#pragma once

#include "onnx/attention.hpp"
#include "onnx/flex_attention.hpp"
#include "onnx/group_query_attention.hpp"
#include "onnx/linear_attention.hpp"
#include "onnx/multi_head_attention.hpp"
#include "onnx/rotary_embedding.hpp"
