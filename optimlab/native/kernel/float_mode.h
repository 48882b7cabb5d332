/* The part of a thread's floating-point state that changes results: how it rounds, and whether it
 * flushes denormal numbers to zero. torch.set_flush_denormal sets it for the calling thread, C's
 * fesetround does, and a thread inherits it from the one that starts it. */

#ifndef OPTIMLAB_FLOAT_MODE_H
#define OPTIMLAB_FLOAT_MODE_H

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
/* Of MXCSR all but the flags that say what has happened: rounding to nearest, no flushing, and no
 * trap for what the arithmetic of every training run meets. */
#define USUAL_MODE 0x1f80
static inline uint64_t float_mode(void) { return _mm_getcsr() & 0xffc0; }
#elif defined(__aarch64__)
#define USUAL_MODE 0
static inline uint64_t float_mode(void)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}
#else
#include <fenv.h>
#define USUAL_MODE 0
static inline uint64_t float_mode(void)
{
    volatile float tiny = 1e-45f;
    return (uint64_t)(fegetround() != FE_TONEAREST) | (uint64_t)(tiny * 1.0f == 0.0f) << 1;
}
#endif

#endif
