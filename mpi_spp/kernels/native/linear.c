/* Products of rows with a weight matrix, few rows or many, with weights in bfloat16 or quantised.
 *
 * Weights lie in panels of 32 outputs. In bfloat16 a panel is [in / 2, 32, 2]; quantised ones are in quantized.h. */
#include "quantized.h"

/* c [rows, PANEL] of one panel, for any number of rows, `stride` apart. */
static void many_rows(const Matrix *w, const uint8_t *panel, const number *x, index_t stride, float *c, index_t rows) {
  bfloat16 dequantized[w->bits == 16 ? 1 : PAIR_BLOCK * 64];
  for (index_t first = 0; first < w->in / 2; first += PAIR_BLOCK) {
    index_t count = smaller(PAIR_BLOCK, w->in / 2 - first);
    const bfloat16 *b = (const bfloat16 *)panel + first * 64;
    if (w->bits != 16) {
      dequantize(w, panel, first, count, dequantized);
      b = dequantized;
    }
    tiles(rows, x + 2 * first, stride, b, count, c, first == 0, w->bits == 16);
  }
}

/* Hand c [rows, PANEL], the product of panel `panel`, over to y [rows, outputs]. */
static void finish(const float *c, const float *bias, void *y, index_t rows, index_t out, index_t panel, int store_as) {
  int paired = store_as == SILU_MUL;
  index_t width = paired ? out / 2 : out, column = panel * (paired ? 16 : PANEL);
  for (int half = 0; half < 2; half++) {
    index_t count = width - column - 16 * half;
    floats shift = bias ? load(bias + panel * PANEL + 16 * half) : zeros();
    for (index_t r = 0; r < rows; r++) {
      index_t at = r * width + column + 16 * half;
      floats value = add(load(c + r * PANEL + 16 * half), shift);
      if (store_as == STORE_FLOAT32)
        store_first((float *)y + at, value, count);
      else if (store_as == ADD_FLOAT32)
        store_first((float *)y + at, add(load_first((float *)y + at, count), value), count);
      else if (store_as == STORE_BFLOAT16)
        store_bfloat16((bfloat16 *)y + at, value, count);
      else if (half == 0)
        store((float *)c + r * PANEL, silu(value));
      else
        store_bfloat16((bfloat16 *)y + at - 16, multiply(load(c + r * PANEL), value), width - column);
    }
  }
}

/* y = x W^T + bias: x [rows, in], y [rows, out], or [rows, out / 2] with SILU_MUL. `in` is even, `group` a multiple of 16.
 * Returns 0, or 1 when there is no memory. */
int linear(const Matrix *w, const bfloat16 *x, void *y, index_t rows, int store_as) {
  index_t panel_bytes = w->bits == 16 ? w->in * PANEL * 2 : 2 * groups_of(w) * block_bytes(w);
  int codes = takes_codes(w, rows), halves = store_as == STORE_BFLOAT16 || store_as == SILU_MUL;
  index_t line = (store_as == SILU_MUL ? w->out / 2 : w->out) * (halves ? sizeof(bfloat16) : sizeof(float));
  index_t stride = w->in + PADDING;
  void *room = malloc(codes ? inputs_bytes(w, rows) : PADDING ? rows * stride * sizeof(number) + 1 : 1);
  if (!room) return 1;
  Inputs inputs = codes ? inputs_of(w, x, rows, room) : (Inputs){0};
  const number *numbers = codes ? NULL : as_numbers(x, rows, w->in, PADDING, room);
  index_t blocks = parts_of(rows, ROW_BLOCK), panels = parts_of(w->out, PANEL);
#pragma omp parallel
  {
    begin_tiles();
#pragma omp for schedule(static)
    for (index_t task = 0; task < blocks * panels; task++) {
      index_t panel = task % panels, row = task / panels * ROW_BLOCK, count = smaller(ROW_BLOCK, rows - row);
      const uint8_t *from = (const uint8_t *)w->weight + panel * panel_bytes;
      float c[ROW_BLOCK * PANEL];
      if (codes)
        rows_of_codes(w, from, inputs_from(w, inputs, row), c, count);
      else
        many_rows(w, from, numbers + row * stride, stride, c, count);
      finish(c, w->bias, (char *)y + row * line, count, w->out, panel, store_as);
    }
    end_tiles();
  }
  free(room);
  return 0;
}

/* Lays the rows of a matrix [out, in] in bfloat16 out as panels; with `alternate` a panel takes 16 rows of each half of the
 * matrix (gate and up). Rows that are missing in a panel are 0. `in` is even. */
void pack_panels(const bfloat16 *rows, bfloat16 *to, index_t out, index_t in, int alternate) {
  index_t half = alternate ? out / 2 : 0, step = alternate ? 16 : PANEL, pairs = in / 2;
#pragma omp parallel for schedule(static)
  for (index_t panel = 0; panel < parts_of(out, PANEL); panel++)
    for (index_t first = 0; first < pairs; first += 16) {
      uint32_t tile[PANEL][16];
      index_t count = smaller(16, pairs - first);
      for (index_t lane = 0; lane < PANEL; lane++) {
        int is_up = alternate && lane >= 16;
        index_t row = panel * step + (is_up ? lane - 16 : lane);
        if (row < (alternate ? half : out))
          memcpy(tile[lane], rows + (row + (is_up ? half : 0)) * in + 2 * first, count * 4);
        else
          memset(tile[lane], 0, sizeof tile[lane]);
      }
      uint32_t *line = (uint32_t *)to + (panel * pairs + first) * PANEL;
      for (index_t pair = 0; pair < count; pair++)
        for (index_t lane = 0; lane < PANEL; lane++) line[pair * PANEL + lane] = tile[lane][pair];
    }
}
