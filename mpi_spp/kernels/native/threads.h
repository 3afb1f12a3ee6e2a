/* Threads: those of the OpenMP that torch has brought along, one team for torch and for us. It is called by the names that
 * it has in libgomp, and in the libraries that can stand in for that; pragmas would need a compiler with an omp.h and calls
 * of the same kind. */
#pragma once
#include <stdint.h>

typedef void Task(void *data);

void GOMP_parallel(Task *task, void *data, unsigned threads, unsigned flags);
void GOMP_barrier(void);
int omp_get_level(void);
int omp_get_thread_num(void);
int omp_get_num_threads(void);
int omp_get_max_threads(void);

/* What a thread does: items [first, stop) of a job. */
typedef void Work(void *job, int64_t first, int64_t stop);

typedef struct {
  Work *work;
  void *job;
  int64_t count;
} Shared;

static void work_on_share(void *of) {
  const Shared *shared = of;
  int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
  int64_t each = shared->count / threads, rest = shared->count % threads;
  int64_t first = each * thread + (thread < rest ? thread : rest);
  shared->work(shared->job, first, first + each + (thread < rest));
}

/* Has each thread do the whole task, which shares work out: waking threads up once for many steps takes half the time. */
static inline void in_team(Task *task, void *data) { GOMP_parallel(task, data, 0, 0); }

static inline int is_in_team(void) { return omp_get_level() > 0; }

/* Does work on all items [0, count) and returns when all is done: on all threads if it is worth waking them up. In a team
 * every thread calls this alike. There work that is not worth it is done by each for itself, and so must have room for its
 * results of its own. */
static inline void share_out(Work *work, void *job, int64_t count, int wake) {
  Shared shared = {work, job, count};
  if (!wake) {
    work(job, 0, count);
  } else if (!is_in_team()) {
    GOMP_parallel(work_on_share, &shared, 0, 0);
  } else {
    work_on_share(&shared);
    if (omp_get_num_threads() > 1) GOMP_barrier();
  }
}

/* For work of items that take unequally long, which threads take one by one: the next of them. */
static inline int64_t take_next(int64_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
