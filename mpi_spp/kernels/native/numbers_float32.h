/* tile.h's numbers for CPUs that multiply in float32 alone: those of a are made once, those of weights on their way. */
#pragma once
#include "native.h"

#if defined(FLOAT32_ELEMENTS)
enum { IS_FLOAT32 = 1 };
#else
enum { IS_FLOAT32 = 0 };
#endif

typedef float number;

enum { PADDING = 16 }; /* rows 4 KB apart would meet in the same lines of the first cache */

INLINE void store_numbers(number *to, floats x) { store(to, x); }

typedef struct {
  const element *x;
  number *to;
  index_t size, padding;
} Widening;

static void widen_rows(void *of, index_t first, index_t stop) {
  const Widening *rows = of;
  index_t size = rows->size, stride = size + rows->padding;
  for (index_t row = first; row < stop; row++)
    for (index_t i = 0; i < size; i += 16)
      store_first(rows->to + row * stride + i, load_elements(rows->x + row * size + i, size - i), size - i);
}

static const number *as_numbers(const element *x, index_t rows, index_t size, index_t padding, number *room) {
  Widening widening = {x, room, size, padding};
  share_out(widen_rows, &widening, rows, rows > MOST_REGISTER_ROWS);
  return room;
}
