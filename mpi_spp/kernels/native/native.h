/* What the native kernels share. library.py compiles them for some sets of instructions, and loads them only where the CPU
 * has these.
 *
 * Every row of a result is computed by the same operations in the same order, whatever other rows are computed with it:
 * any chunk size and any number of ranks give the same bits. */
#pragma once
#include <stdlib.h>

#include "memory.h"
#include "elements.h"
#include "threads.h"

/* Sums of MOST_REGISTER_ROWS rows of PANEL columns fill 24 of the 32 registers of AVX-512. */
enum { MOST_REGISTER_ROWS = 12 };

/* What becomes of a product. SILU_MUL: the left half of each panel is the gate of its right half. */
enum { STORE_FLOAT32, STORE_ELEMENTS, ADD_FLOAT32, SILU_MUL };

/* The weights of a product, [out, in], as linear.c lays them out, and a bias [panels, PANEL] or NULL. */
typedef struct {
  const void *weight;
  const float *bias;
  index_t out, in, bits, group, activations; /* bits: 8 or 4 of codes, or those of an element; activations: 8, or 16 for
                                              * what loses nothing */
} Matrix;

static inline int is_quantized(const Matrix *w) { return w->bits <= 8; }

/* A layer's cache: values [groups, capacity, size] and keys in panels [groups, parts_of(capacity, PANEL), size of them *
 * PANEL], the right-hand matrices of tile(). With scales [groups, capacity] they are int8 codes, and a head
 * at a position is its scale times its codes. */
typedef struct {
  void *keys, *values;
  float *key_scales, *value_scales; /* both or neither NULL */
  index_t capacity;
} Cache;

/* How attention takes rows of queries, keys and values. */
typedef struct {
  index_t groups, heads, size;        /* query heads of a group, numbers in a head */
  const float *query_norm, *key_norm; /* [size], or NULL */
  float eps, scale;
} Heads;

/* Consecutive tokens of one sequence, the first of which stands at position `start`; and what layers keep of it. */
typedef struct {
  const Cache *caches;
  index_t tokens, start;
} Span;

/* The tokens of some spans, one behind the other, and their angles [tokens, size]; sines are signed. */
typedef struct {
  const float *cosines, *sines;
  const Span *spans;
  index_t count, tokens;
} Batch;

/* Room for the attention of a batch in some layers; see attention.c. */
typedef struct {
  float *shares;
  int64_t *finished, *next; /* [spans, groups] and [layers], zeros when it begins */
  char *own;                /* of each thread so many bytes */
  size_t own_bytes;
} AttentionRoom;

/* Documented where they are defined. */
int allow_tiles(void);
const char *compiler(void);
size_t product_bytes(const Matrix *matrix, index_t rows);
void multiply_rows(const Matrix *matrix, const element *x, void *y, index_t rows, int store, void *room);
int linear(const Matrix *matrix, const element *x, void *y, index_t rows, int store);
void rms_norm(const float *x, const float *weight, element *y, index_t rows, index_t size, float eps);
void rotate_and_store(const Heads *heads, const element *qkv, const Batch *batch, index_t layer, element *queries);
void take_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
               index_t count, index_t bytes);
void put_keys(char *panels, char *columns, index_t groups, index_t panels_of_group, index_t size, index_t start,
              index_t count, index_t bytes);
AttentionRoom attention_room(Memory *memory, const Heads *heads, const Batch *batch, index_t layers);
void attend_in(const AttentionRoom *room, const Heads *heads, const element *queries, const Batch *batch, index_t layer,
               index_t window, element *to);
int attend(const Heads *heads, const element *queries, const Batch *batch, index_t window, element *to);
int attend_part(const Heads *heads, const element *queries, const Batch *batch, index_t window, index_t first,
                index_t stop, float *part, float *log_sums);

INLINE index_t smaller(index_t a, index_t b) { return a < b ? a : b; }
INLINE index_t larger(index_t a, index_t b) { return a > b ? a : b; }
INLINE index_t parts_of(index_t count, index_t size) { return (count + size - 1) / size; }

/* CALL(R) with the constant R that `rows`, up to MOST_REGISTER_ROWS, is. */
#define WITH_ROWS(rows, CALL) \
  switch (rows) {             \
    case 1: CALL(1); break;   \
    case 2: CALL(2); break;   \
    case 3: CALL(3); break;   \
    case 4: CALL(4); break;   \
    case 5: CALL(5); break;   \
    case 6: CALL(6); break;   \
    case 7: CALL(7); break;   \
    case 8: CALL(8); break;   \
    case 9: CALL(9); break;   \
    case 10: CALL(10); break; \
    case 11: CALL(11); break; \
    default: CALL(12);        \
  }
