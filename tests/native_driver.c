/* Runs kernels on cases from a file, on a machine that need not be this one: an emulated one, where Python is not.
 *
 *   driver CASES RESULTS
 *   driver               tells AT_HWCAP and AT_HWCAP2, what the processor has
 *
 * A case is the name of a function [16 bytes], then counts of integers, floats and buffers (int64), the integers (int64), the
 * floats (float32), and each buffer as its size in bytes (int64; -1: NULL) and content. The results are all buffers, one
 * behind the other. Integers and buffers come in the order in which they are taken below. */
#include <stdio.h>
#include <sys/auxv.h>

#include "native.h"

enum { MOST = 16, GUARD = 64 };

static index_t integers[MOST], sizes[MOST];
static float numbers[MOST];
static char *buffers[MOST];

void pack_panels(const element *rows, element *to, index_t out, index_t in, int alternate);

static void fail(const char *why) {
  fprintf(stderr, "driver: %s\n", why);
  exit(1);
}

static void get(void *to, size_t bytes, FILE *file) {
  if (fread(to, 1, bytes, file) != bytes) fail("the file of cases ends too early");
}

/* The cache in the buffers from `at` on. */
static Cache cache_at(int at, index_t capacity) {
  return (Cache){buffers[at], buffers[at + 1], (float *)buffers[at + 2], (float *)buffers[at + 3], capacity};
}

/* A kernel for one span: its integers begin with tokens, groups, heads, size and start. */
static int call_for_span(const char *name, Cache cache) {
  const index_t *n = integers;
  void *b[MOST];
  for (int i = 0; i < MOST; i++) b[i] = buffers[i];
  Heads heads = {.groups = n[1], .heads = n[2], .size = n[3]};
  Span span = {&cache, n[0], n[4]};
  Batch batch = {.spans = &span, .count = 1, .tokens = n[0]};
  if (!strcmp(name, "attend")) return attend(&heads, b[0], &batch, n[5], b[1]);
  if (!strcmp(name, "attend_part")) return attend_part(&heads, b[0], &batch, n[5], n[6], n[7], b[1], b[2]);
  heads.query_norm = b[3], heads.key_norm = b[4], heads.eps = numbers[0], heads.scale = numbers[1];
  batch.cosines = b[1], batch.sines = b[2];
  rotate_and_store(&heads, b[0], &batch, 0, b[5]);
  return 0;
}

/* Returns what the function returns, or -1 where there is none of this name. */
static int call(const char *name) {
  const index_t *n = integers;
  void *b[MOST];
  for (int i = 0; i < MOST; i++) b[i] = buffers[i];
  if (!strcmp(name, "linear")) {
    Matrix matrix = {b[0], b[1], n[0], n[1], n[2], n[3], n[4]};
    return linear(&matrix, b[2], b[3], n[5], (int)n[6]);
  }
  if (!strcmp(name, "attend")) return call_for_span(name, cache_at(2, n[6]));
  if (!strcmp(name, "attend_part")) return call_for_span(name, cache_at(3, n[8]));
  if (!strcmp(name, "rotate")) return call_for_span(name, cache_at(6, n[5]));
  if (!strcmp(name, "rms_norm")) {
    rms_norm(b[0], b[1], b[2], n[0], n[1], numbers[0]);
  } else if (!strcmp(name, "take_keys")) {
    take_keys(b[0], b[1], n[0], n[1], n[2], n[3], n[4], n[5]);
  } else if (!strcmp(name, "put_keys")) {
    put_keys(b[0], b[1], n[0], n[1], n[2], n[3], n[4], n[5]);
  } else if (!strcmp(name, "pack_panels")) {
    pack_panels(b[0], b[1], n[0], n[1], (int)n[2]);
  } else {
    return -1;
  }
  return 0;
}

static void get_buffers(index_t count, FILE *file) {
  for (index_t i = 0; i < count; i++) {
    get(&sizes[i], sizeof sizes[i], file);
    buffers[i] = NULL;
    if (sizes[i] < 0) continue;
    buffers[i] = aligned_alloc(64, (sizes[i] + GUARD + 63) / 64 * 64);
    if (!buffers[i]) fail("no memory");
    get(buffers[i], sizes[i], file);
    memset(buffers[i] + sizes[i], 0xa5, GUARD);
  }
}

static void put_buffers(index_t count, FILE *file) {
  for (index_t i = 0; i < count; i++) {
    if (sizes[i] < 0) continue;
    for (int j = 0; j < GUARD; j++)
      if (buffers[i][sizes[i] + j] != (char)0xa5) fail("a kernel wrote behind the end of a buffer");
    if (fwrite(buffers[i], 1, sizes[i], file) != (size_t)sizes[i]) fail("the results cannot be written");
    free(buffers[i]);
  }
}

int main(int count, char **words) {
  if (count == 1) return printf("%lu %lu\n", getauxval(AT_HWCAP), getauxval(AT_HWCAP2)) < 0;
  FILE *cases = count == 3 ? fopen(words[1], "rb") : NULL, *results = cases ? fopen(words[2], "wb") : NULL;
  if (!results) fail("wants a file of cases and one for results");
  char name[16];
  while (fread(name, 1, sizeof name, cases) == sizeof name) {
    index_t counts[3];
    get(counts, sizeof counts, cases);
    for (int i = 0; i < 3; i++)
      if (counts[i] < 0 || counts[i] > MOST) fail("too many of something");
    get(integers, counts[0] * sizeof(index_t), cases);
    get(numbers, counts[1] * sizeof(float), cases);
    get_buffers(counts[2], cases);
    int status = call(name);
    if (status) fail(status < 0 ? "no such function" : "a kernel found no memory");
    put_buffers(counts[2], results);
  }
  if (fclose(results)) fail("the results cannot be written");
  return 0;
}
