/* tile.h's numbers for instructions that take bfloat16. */
#pragma once
#include "native.h"

typedef bfloat16 number;

enum { PADDING = 0 };

INLINE void store_numbers(number *to, floats x) { store_bfloat16(to, x, 16); }
INLINE const number *as_numbers(const bfloat16 *x, index_t rows, index_t size, index_t padding, number *room) {
  (void)rows, (void)size, (void)padding, (void)room;
  return x;
}
