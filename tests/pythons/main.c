/* The interpreter that a wheel of freeze-core brings has the main() of a frozen program. This library, which it is made
   to need, comes before it and starts Python instead. */

#define _GNU_SOURCE
#include <dlfcn.h>

typedef int (*main_function)(int, char **, char **);
typedef int (*start_function)(main_function, int, char **, main_function, void (*)(void), void (*)(void), void *);

static int (*python)(int, char **);

static int start(int count, char **words, char **environment) { return python(count, words); }

int __libc_start_main(main_function main, int count, char **words, main_function init, void (*fini)(void),
                      void (*loader_fini)(void), void *stack)
{
    start_function real = (start_function)dlsym(RTLD_NEXT, "__libc_start_main");
    python = (int (*)(int, char **))dlsym(RTLD_DEFAULT, "Py_BytesMain");
    return real(python ? start : main, count, words, init, fini, loader_fini, stack);
}
