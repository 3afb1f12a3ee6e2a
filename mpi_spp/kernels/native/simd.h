/* Vectors of 16 numbers in float32, `floats`, and of 64 bytes of integers, `words`, as the machine has them: one register
 * of AVX-512, two of AVX2, four of NEON. The kernels above are written once; a machine is a file of these operations.
 *
 * load_first() and store_first() touch the first `count` of 16 numbers, none where it is not above 0 and all where it is 16
 * and more; what is not loaded is 0. load_between() and store_between() touch bytes [first, stop) of 64. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bfloat16;
typedef int64_t index_t;

#if defined(__aarch64__)
#include "simd_neon.h"
#elif defined(__AVX512F__)
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif

INLINE float from_bfloat16(bfloat16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

/* e^x for x <= 0, to 2 units in the last place; Cephes' polynomial. */
INLINE floats exponential(floats x) {
  x = maximum(x, all(-104.0f));
  floats n = nearest(multiply(x, all(1.44269504f)));
  floats r = subtract_product(n, all(0.693359375f), x);
  r = subtract_product(n, all(-2.12194440e-4f), r);
  floats p = all(1.9875691500e-4f);
  p = multiply_add(p, r, all(1.3981999507e-3f));
  p = multiply_add(p, r, all(8.3334519073e-3f));
  p = multiply_add(p, r, all(4.1665795894e-2f));
  p = multiply_add(p, r, all(1.6666665459e-1f));
  p = multiply_add(p, r, all(5.0000001201e-1f));
  p = multiply_add(multiply(r, r), p, add(r, all(1.0f)));
  return times_power_of_2(p, n);
}

/* x / (1 + e^-x) without overflow. */
INLINE floats silu(floats x) {
  floats e = exponential(subtract(zeros(), magnitude(x))), one = all(1.0f);
  return divide(multiply(x, choose(is_negative(x), e, one)), add(one, e));
}
