// SPDX-License-Identifier: BSD-3-Clause
// attend: attention kernels for CPUs. This header includes the library, one family after the other, and Eigen's
// tensors; each family and each header that it includes also stands alone, and costs a compiler less. Left out, for
// what they need beside Eigen and xsimd, or cost a compiler: select/hnsw_index.hpp,
// attention/cached/principal_slicing.hpp; and the operators of ONNX, whose namespace could meet that of ONNX's own
// library: onnx.hpp.
#pragma once

#include "cache.hpp"
#include "core/eigen_tensor.hpp"
#include "gradients.hpp"
#include "image.hpp"
#include "linear.hpp"
#include "softmax.hpp"
#include "sparse.hpp"
#include "version.hpp"
