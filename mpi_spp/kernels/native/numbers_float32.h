/* tile.h's numbers for CPUs that multiply in float32 alone: those of a are made once. */
#pragma once
#include "native.h"

typedef float number;

enum { PADDING = 16 }; /* rows 4 KB apart would meet in the same lines of the first cache */

INLINE void store_numbers(number *to, floats x) { store(to, x); }

static const number *as_numbers(const bfloat16 *x, index_t rows, index_t size, index_t padding, number *room) {
#pragma omp parallel for schedule(static) if (rows > MOST_REGISTER_ROWS)
  for (index_t row = 0; row < rows; row++)
    for (index_t i = 0; i < size; i += 16)
      store_first(room + row * (size + padding) + i, load_bfloat16(x + row * size + i, size - i), size - i);
  return room;
}
