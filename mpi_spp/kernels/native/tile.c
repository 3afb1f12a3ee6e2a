/* What must be asked for before tile.h can be used. */
#include "native.h"

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

enum { ASK_FOR_A_FEATURE = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA of Linux 5.16 */

/* Asks Linux for the tile registers, for all threads of the process. Returns 0, or an error where they are not given. */
int allow_tiles(void) { return (int)syscall(SYS_arch_prctl, ASK_FOR_A_FEATURE, TILE_DATA); }

#else

/* These kernels use none. */
int allow_tiles(void) { return 0; }

#endif
