/* Zero on free: loaded with LD_PRELOAD, so that whatever the process frees reads as zeros at once, whoever allocated it
 * (CPython with PYTHONMALLOC=malloc, OpenSSL, pydantic's Rust, httptools). glibc alone: free and realloc are replaced,
 * and hand on to glibc's own under their second names, so every other way to allocate (calloc, memalign,
 * posix_memalign, reallocarray, which calls realloc) is glibc's and fits together with them.
 * https://www.gnu.org/software/libc/manual/html_node/Replacing-malloc.html
 *
 * Does not: see what an allocator of a program's own hands out and takes back within itself.
 *
 * service/memory/shim.py compiles it where it is used. For an image, compile it there, for CREDENTIALS_ZEROING_SHIM:
 *     cc -O2 -fPIC -shared -fno-builtin -Wl,-z,now -o zero_on_free.so zero_on_free.c
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *chunk);

/* The whole chunk, which may be larger than what was asked for: its user may have used all of it. A large chunk, which
 * glibc unmaps, is wiped as well. explicit_bzero is not optimised away, as a memset before free would be; neither it
 * nor __libc_free (from glibc 2.33 on) changes errno. */
void free(void *chunk)
{
    if (chunk == NULL)
        return;
    explicit_bzero(chunk, malloc_usable_size(chunk));
    __libc_free(chunk);
}

/* Never glibc's own, which moves a chunk and leaves the old bytes, or shrinks it and leaves the tail. */
void *realloc(void *chunk, size_t size)
{
    if (chunk == NULL)
        return __libc_malloc(size);
    if (size == 0) { /* as glibc */
        free(chunk);
        return NULL;
    }
    size_t held = malloc_usable_size(chunk);
    if (size <= held && size >= held / 2) { /* stays where it is; what is given up of it is wiped */
        explicit_bzero((char *)chunk + size, held - size);
        return chunk;
    }
    void *moved = __libc_malloc(size);
    if (moved == NULL) /* errno is malloc's; the old chunk stays as it was */
        return NULL;
    memcpy(moved, chunk, held < size ? held : size);
    free(chunk);
    return moved;
}

/* Clears the part of the calling thread's stack that is not in use, `size` bytes down from here (256 kB at most), where
 * functions that have returned left their buffers. */
__attribute__((noinline)) void vc_wipe_stack(size_t size)
{
    char unused[size == 0 ? 1 : size < 262144 ? size : 262144];
    explicit_bzero(unused, sizeof unused);
}
