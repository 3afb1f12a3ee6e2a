/* Layers, or shares of them, in one call: for one row calls and waking threads up would take as long as the work. */
#include "native.h"

typedef struct {
  Matrix qkv, output, gate_up, down;
  const float *input_norm, *mlp_norm;
  Heads heads;
  index_t window; /* the positions that a token sees */
  float eps;
} Layer;

enum { ATTENTION = 1, MLP = 2 }; /* the halves of a layer */

/* What run_layers() was given, and room for what lies between the products. */
typedef struct {
  const Layer *const *layers;
  index_t count;
  const Batch *batch;
  float *hidden;
  int halves, keep;
  element *inner, *queries, *attended;
  AttentionRoom attention;
  char *own; /* each thread's normalised rows and room for products; of many rows all have the same */
  size_t own_bytes, x_bytes;
} Run;

/* A few rows are normalised, and made ready for products, by every thread for itself: that takes less time than to wait
 * for one another. */
static int each_for_itself(const Run *run) { return run->batch->tokens <= MOST_REGISTER_ROWS; }

static void lay_out(Run *run, Memory *memory) {
  index_t tokens = run->batch->tokens;
  size_t x = 0, inner = 0, width = 0, room = 0;
  for (index_t i = 0; i < run->count; i++) {
    const Layer *layer = run->layers[i];
    const Heads *heads = &layer->heads;
    if (run->halves & ATTENTION) {
      x = larger(x, layer->qkv.in), inner = larger(inner, layer->qkv.out);
      room = larger(room, larger(product_bytes(&layer->qkv, tokens), product_bytes(&layer->output, tokens)));
      width = larger(width, heads->groups * heads->heads * heads->size);
    }
    if (run->halves & MLP) {
      x = larger(x, layer->gate_up.in), inner = larger(inner, layer->down.in);
      room = larger(room, larger(product_bytes(&layer->gate_up, tokens), product_bytes(&layer->down, tokens)));
    }
  }
  run->inner = take_bytes(memory, tokens * inner * sizeof(element));
  run->queries = take_bytes(memory, tokens * width * sizeof(element));
  run->attended = take_bytes(memory, tokens * width * sizeof(element));
  run->x_bytes = parts_of(tokens * x * sizeof(element), 64) * 64;
  run->own_bytes = run->x_bytes + parts_of(room, 64) * 64;
  run->own = take_bytes(memory, (each_for_itself(run) ? omp_get_max_threads() : 1) * run->own_bytes);
  if (run->halves & ATTENTION)
    run->attention = attention_room(memory, &run->layers[0]->heads, run->batch, run->count);
}

static void add_product(const Run *run, const Matrix *matrix, const element *x, void *room) {
  multiply_rows(matrix, x, run->hidden, run->batch->tokens, run->keep ? ADD_FLOAT32 : STORE_FLOAT32, room);
}

static void run_attention(const Run *run, index_t number, element *x, void *room) {
  const Layer *layer = run->layers[number];
  index_t tokens = run->batch->tokens;
  rms_norm(run->hidden, layer->input_norm, x, tokens, layer->qkv.in, layer->eps);
  multiply_rows(&layer->qkv, x, run->inner, tokens, STORE_ELEMENTS, room);
  rotate_and_store(&layer->heads, run->inner, run->batch, number, run->queries);
  attend_in(&run->attention, &layer->heads, run->queries, run->batch, number, layer->window, run->attended);
  add_product(run, &layer->output, run->attended, room);
}

static void run_mlp(const Run *run, index_t number, element *x, void *room) {
  const Layer *layer = run->layers[number];
  index_t tokens = run->batch->tokens;
  rms_norm(run->hidden, layer->mlp_norm, x, tokens, layer->gate_up.in, layer->eps);
  multiply_rows(&layer->gate_up, x, run->inner, tokens, SILU_MUL, room);
  add_product(run, &layer->down, run->inner, room);
}

/* What each thread does. They wait for one another behind each product, the rotation and the attention: six times. */
static void run_all(void *of) {
  const Run *run = of;
  char *own = run->own + (each_for_itself(run) ? omp_get_thread_num() * run->own_bytes : 0);
  for (index_t i = 0; i < run->count; i++) {
    if (run->halves & ATTENTION) run_attention(run, i, (element *)own, own + run->x_bytes);
    if (run->halves & MLP) run_mlp(run, i, (element *)own, own + run->x_bytes);
  }
}

/* Takes hidden [tokens, hidden_size] through some layers, or halves of them, in place; keys and values go to the spans'
 * caches. keep: outputs are added to hidden; else they take its place, since another rank adds them to it. All layers have
 * heads of the same shape. Returns 0, or 1 when there is no memory. */
int run_layers(const Layer *const *layers, index_t count, float *hidden, const Batch *batch, int halves, int keep) {
  if (!batch->tokens) return 0;
  Run run = {.layers = layers, .count = count, .batch = batch, .hidden = hidden, .halves = halves, .keep = keep};
  Memory memory = {0};
  lay_out(&run, &memory);
  if (!get_memory(&memory)) return 1;
  lay_out(&run, &memory);
  in_team(run_all, &run);
  free(memory.begin);
  return 0;
}
