#pragma once

// CPU: KL(q || p) in nats for a register of pixels, as in diffnoise/ops/kl_map.py.

#include "vector.h"

namespace diffnoise {

// tail = exp(l_q - l_p) - 1 - (l_q - l_p); precision = exp(-l_p); difference = mu_q - mu_p.
template <class Isa, class V>
DN_HD V twice_kl(V tail, V precision, V difference) {
    return multiply_add<Isa>(difference * difference, precision, tail);
}

}  // namespace diffnoise
