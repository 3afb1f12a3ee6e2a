/* Products of integers of 16 and of 8 bits, for quantised weights; rows of inputs whose sums fill the registers. */
#pragma once
#include "native.h"

#ifdef __AVX512F__
#include "integers_avx512.h"
enum { BLOCK_ROWS = MOST_REGISTER_ROWS };
#define WITH_BLOCK_ROWS WITH_ROWS
#else
#include "integers_avx2.h"
enum { BLOCK_ROWS = 4 };
#define WITH_BLOCK_ROWS(rows, CALL) \
  switch (rows) {                   \
    case 1: CALL(1); break;         \
    case 2: CALL(2); break;         \
    case 3: CALL(3); break;         \
    default: CALL(4);               \
  }
#endif

/* The inputs of 16 columns in the order in which nibbles of 64 bytes of codes come: of 8 inputs 0 4 1 5, then 2 6 3 7. */
INLINE void store_in_order_of_nibbles(int8_t *codes) {
  __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  _mm_storeu_si128((__m128i *)codes, _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)codes), order));
}
