/* SHA-256 (FIPS 180-4) without the cost of a library call per message: by the processor's own
 * instructions where it has them, else in C. */
#ifndef TEPBFT_SHA256_H
#define TEPBFT_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32
#define SHA256_BLOCK 64

typedef struct {
    uint32_t state[8];
    uint8_t block[SHA256_BLOCK];
    size_t used;     /* bytes waiting in `block` */
    uint64_t length; /* bytes taken in so far */
} Sha256;

/* Take the quickest way that this processor has, or `plain` C. Plain until somebody has called this. */
void sha256_choose(int plain);

void sha256_init(Sha256 *hash);
void sha256_update(Sha256 *hash, const void *data, size_t length);
void sha256_final(Sha256 *hash, uint8_t digest[SHA256_BYTES]);
void sha256_of(uint8_t digest[SHA256_BYTES], const void *data, size_t length);

#endif
