#pragma once

// KL(q || p) in nats of one value, or of a register of them, as in diffnoise/ops/kl_map.py.

#include "host_device.h"

namespace diffnoise {

// tail = exp(l_q - l_p) - 1 - (l_q - l_p); precision = exp(-l_p); difference = mu_q - mu_p.
template <class V>
DN_HD V kl(V tail, V precision, V difference) {
    return (tail + difference * difference * precision) * 0.5f;
}

}  // namespace diffnoise
