/* Memory that is asked for once and laid out twice: at first nothing is there, and what is taken is only counted. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  char *begin; /* NULL while it is counted */
  size_t used;
} Memory;

/* So many bytes of it, at the beginning of a line. */
static inline void *take_bytes(Memory *memory, size_t bytes) {
  void *place = memory->begin ? memory->begin + memory->used : NULL;
  memory->used += (bytes + 63) / 64 * 64;
  return place;
}

/* The memory that has been counted; returns 0 where there is none. */
static inline int get_memory(Memory *memory) {
  memory->begin = aligned_alloc(64, memory->used + 64);
  memory->used = 0;
  return memory->begin != NULL;
}
