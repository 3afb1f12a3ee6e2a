/* Products of rows with a weight matrix, few rows or many, with weights that are elements or quantised.
 *
 * Weights lie in panels of 32 outputs, in the form of elements.h or of quantized.h. */
#include "quantized.h"

/* c [rows, PANEL] of one panel, for any number of rows, `stride` apart. */
static void many_rows(const Matrix *w, const uint8_t *panel, const number *x, index_t stride, float *c, index_t rows) {
  element dequantized[is_quantized(w) ? PAIR_BLOCK * 64 : 1];
  for (index_t first = 0; first < w->in / 2; first += PAIR_BLOCK) {
    index_t count = smaller(PAIR_BLOCK, w->in / 2 - first);
    const element *b = (const element *)panel + first * 64;
    if (is_quantized(w)) {
      dequantize(w, panel, first, count, dequantized);
      b = dequantized;
    }
    tiles(rows, x + 2 * first, stride, b, count, c, first == 0, !is_quantized(w));
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
      else if (store_as == STORE_ELEMENTS)
        store_elements((element *)y + at, value, count);
      else if (half == 0)
        store((float *)c + r * PANEL, silu(value));
      else
        store_elements((element *)y + at - 16, multiply(load(c + r * PANEL), value), width - column);
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
  int halves = store_as == STORE_ELEMENTS || store_as == SILU_MUL;
  return (store_as == SILU_MUL ? w->out / 2 : w->out) * (halves ? sizeof(element) : sizeof(float));
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
void multiply_rows(const Matrix *w, const element *x, void *y, index_t rows, int store_as, void *room) {
  Product product = {.matrix = w, .y = y, .rows = rows, .stride = w->in + PADDING, .store_as = store_as};
  product.panel_bytes = is_quantized(w) ? 2 * groups_of(w) * block_bytes(w) : w->in * PANEL * (index_t)sizeof(element);
  if (takes_codes(w, rows))
    product.inputs = inputs_of(w, x, rows, room);
  else
    product.numbers = as_numbers(x, rows, w->in, PADDING, room);
  share_out(multiply_blocks, &product, parts_of(rows, ROW_BLOCK) * panels_of(w), 1);
}

/* The same with room of its own. Returns 0, or 1 when there is no memory. */
int linear(const Matrix *w, const element *x, void *y, index_t rows, int store_as) {
  void *room = malloc(product_bytes(w, rows) + 1);
  if (!room) return 1;
  multiply_rows(w, x, y, rows, store_as, room);
  free(room);
  return 0;
}

typedef struct {
  const element *rows;
  element *to;
  index_t out, in;
  int alternate;
} Packing;

/* Row `lane` of a panel, or NULL where it has none. */
INLINE const element *row_of_panel(const Packing *packing, index_t panel, index_t lane) {
  index_t half = packing->out / 2, row = panel * PANEL + lane;
  if (packing->alternate) {
    row = panel * 16 + lane % 16;
    return row < half ? packing->rows + (row + lane / 16 * half) * packing->in : NULL;
  }
  return row < packing->out ? packing->rows + row * packing->in : NULL;
}

/* Inputs [first, first + 32) of a panel, or the fewer that there are. */
static void pack_inputs(const Packing *packing, index_t panel, index_t first) {
  element tile[PANEL][32];
  index_t count = smaller(32, packing->in - first);
  for (index_t lane = 0; lane < PANEL; lane++) {
    const element *row = row_of_panel(packing, panel, lane);
    if (row)
      memcpy(tile[lane], row + first, count * sizeof(element));
    else
      memset(tile[lane], 0, sizeof tile[lane]);
  }
  element *to = packing->to + (panel * packing->in + first) * PANEL;
  for (index_t k = 0; k < count; k += PAIR, to += PAIR * PANEL)
    for (index_t lane = 0; lane < PANEL; lane++) memcpy(to + lane * PAIR, tile[lane] + k, PAIR * sizeof(element));
}

static void pack_some(void *of, index_t first_panel, index_t stop) {
  const Packing *packing = of;
  for (index_t panel = first_panel; panel < stop; panel++)
    for (index_t first = 0; first < packing->in; first += 32) pack_inputs(packing, panel, first);
}

/* Lays the rows of a matrix [out, in] out as panels; with `alternate` a panel takes 16 rows of each half of the
 * matrix (gate and up). Rows that are missing in a panel are 0. `in` is even. */
void pack_panels(const element *rows, element *to, index_t out, index_t in, int alternate) {
  Packing packing = {rows, to, out, in, alternate};
  share_out(pack_some, &packing, parts_of(out, PANEL), 1);
}
