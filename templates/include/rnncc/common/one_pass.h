// One pass: a cell whose step Jacobians have no products in registers, or aren't emitted at all. The
// drivers name these functions, and never call them.
#pragma once

#include "rnncc/common/io.h"

namespace rnncc {

struct NoProducts {
  template <bool first_step = false, typename... Any> RNNCC_MEMBER static void carry(Any...) {}
};

struct NoJacobian {
  template <typename... Any> RNNCC_MEMBER static void jacobian(Any...) {}
};

}  // namespace rnncc
