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

/* A product that is under way: its inputs as codes want them, or as numbers `stride` apart. */
typedef struct {
  const Matrix *matrix;
  const number *numbers; /* or NULL */
  Inputs inputs;
  void *y;
  index_t rows, stride, panel_bytes;
  int store_as;
} Product;

INLINE index_t panels_of(const Matrix *w) { return parts_of(w->out, PANEL); }

/* Bytes of a row of outputs. */
INLINE index_t line_bytes(const Matrix *w, int store_as) {
  int halves = store_as == STORE_BFLOAT16 || store_as == SILU_MUL;
  return (store_as == SILU_MUL ? w->out / 2 : w->out) * (halves ? sizeof(bfloat16) : sizeof(float));
}

/* Blocks of outputs [first, stop): those of ROW_BLOCK rows with all panels, then those of the next rows. */
static void multiply_blocks(void *of, index_t first, index_t stop) {
  const Product *product = of;
  const Matrix *w = product->matrix;
  index_t panels = panels_of(w), line = line_bytes(w, product->store_as), stride = product->stride;
  begin_tiles();
  for (index_t block = first; block < stop; block++) {
    index_t panel = block % panels, row = block / panels * ROW_BLOCK, count = smaller(ROW_BLOCK, product->rows - row);
    const uint8_t *from = (const uint8_t *)w->weight + panel * product->panel_bytes;
    float c[ROW_BLOCK * PANEL];
    if (product->numbers)
      many_rows(w, from, product->numbers + row * stride, stride, c, count);
    else
      rows_of_codes(w, from, inputs_from(w, product->inputs, row), c, count);
    finish(c, w->bias, (char *)product->y + row * line, count, w->out, panel, product->store_as);
  }
  end_tiles();
}

/* What multiply_rows() wants to have room for. */
size_t product_bytes(const Matrix *w, index_t rows) {
  if (takes_codes(w, rows)) return inputs_bytes(w, rows);
  return PADDING ? rows * (w->in + PADDING) * sizeof(number) : 0;
}

/* y = x W^T + bias: x [rows, in], y [rows, out], or [rows, out / 2] with SILU_MUL. `in` is even, `group` a multiple of 16. In
 * a team each thread has room of its own for up to MOST_REGISTER_ROWS rows, and all have the same for more. */
void multiply_rows(const Matrix *w, const bfloat16 *x, void *y, index_t rows, int store_as, void *room) {
  Product product = {.matrix = w, .y = y, .rows = rows, .stride = w->in + PADDING, .store_as = store_as};
  product.panel_bytes = w->bits == 16 ? w->in * PANEL * 2 : 2 * groups_of(w) * block_bytes(w);
  if (takes_codes(w, rows))
    product.inputs = inputs_of(w, x, rows, room);
  else
    product.numbers = as_numbers(x, rows, w->in, PADDING, room);
  share_out(multiply_blocks, &product, parts_of(rows, ROW_BLOCK) * panels_of(w), 1);
}

/* The same with room of its own. Returns 0, or 1 when there is no memory. */
int linear(const Matrix *w, const bfloat16 *x, void *y, index_t rows, int store_as) {
  void *room = malloc(product_bytes(w, rows) + 1);
  if (!room) return 1;
  multiply_rows(w, x, y, rows, store_as, room);
  free(room);
  return 0;
}

typedef struct {
  const bfloat16 *rows;
  bfloat16 *to;
  index_t out, in;
  int alternate;
} Packing;

static void pack_some(void *of, index_t first_panel, index_t stop) {
  const Packing *packing = of;
  int alternate = packing->alternate;
  index_t out = packing->out, in = packing->in, pairs = in / 2;
  index_t half = alternate ? out / 2 : 0, step = alternate ? 16 : PANEL;
  for (index_t panel = first_panel; panel < stop; panel++)
    for (index_t first = 0; first < pairs; first += 16) {
      uint32_t tile[PANEL][16];
      index_t count = smaller(16, pairs - first);
      for (index_t lane = 0; lane < PANEL; lane++) {
        int is_up = alternate && lane >= 16;
        index_t row = panel * step + (is_up ? lane - 16 : lane);
        if (row < (alternate ? half : out))
          memcpy(tile[lane], packing->rows + (row + (is_up ? half : 0)) * in + 2 * first, count * 4);
        else
          memset(tile[lane], 0, sizeof tile[lane]);
      }
      uint32_t *line = (uint32_t *)packing->to + (panel * pairs + first) * PANEL;
      for (index_t pair = 0; pair < count; pair++)
        for (index_t lane = 0; lane < PANEL; lane++) line[pair * PANEL + lane] = tile[lane][pair];
    }
}

/* Lays the rows of a matrix [out, in] in bfloat16 out as panels; with `alternate` a panel takes 16 rows of each half of the
 * matrix (gate and up). Rows that are missing in a panel are 0. `in` is even. */
void pack_panels(const bfloat16 *rows, bfloat16 *to, index_t out, index_t in, int alternate) {
  Packing packing = {rows, to, out, in, alternate};
  share_out(pack_some, &packing, parts_of(out, PANEL), 1);
}
