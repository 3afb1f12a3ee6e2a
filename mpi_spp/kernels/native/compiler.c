#include "native.h"

/* The name and version of the compiler that made these kernels. */
#ifdef __clang__
const char *compiler(void) { return "clang " __clang_version__; }
#else
const char *compiler(void) { return "gcc " __VERSION__; }
#endif
