#pragma once

// KL(q || p) of one value in nats, as in diffnoise/ops/kl_map.py.

#include "reverse_step.h"

namespace diffnoise {

// tail = exp(l_q - l_p) - 1 - (l_q - l_p); precision = exp(-l_p); difference = mu_q - mu_p.
template <class T>
DN_HD T kl(T tail, T precision, T difference) {
    return T(0.5) * (tail + difference * difference * precision);
}

}  // namespace diffnoise
