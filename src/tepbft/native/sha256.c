#include "sha256.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define SHA256_X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* --- plain C -------------------------------------------------------------------------------------- */

static inline uint32_t rotate(uint32_t word, int bits)
{
    return word >> bits | word << (32 - bits);
}

static inline uint32_t big_endian(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
}

/* One round. The caller renames its eight words instead of moving them. */
#define STEP(a, b, c, d, e, f, g, h, i)                                                                  \
    do {                                                                                                 \
        uint32_t sum = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) +        \
                       ROUND[i] + w[(i) & 15];                                                           \
        d += sum;                                                                                        \
        h = sum + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));            \
    } while (0)

#define EIGHT_STEPS(i)                                                                                   \
    STEP(a, b, c, d, e, f, g, h, (i) + 0);                                                               \
    STEP(h, a, b, c, d, e, f, g, (i) + 1);                                                               \
    STEP(g, h, a, b, c, d, e, f, (i) + 2);                                                               \
    STEP(f, g, h, a, b, c, d, e, (i) + 3);                                                               \
    STEP(e, f, g, h, a, b, c, d, (i) + 4);                                                               \
    STEP(d, e, f, g, h, a, b, c, (i) + 5);                                                               \
    STEP(c, d, e, f, g, h, a, b, (i) + 6);                                                               \
    STEP(b, c, d, e, f, g, h, a, (i) + 7)

/* Inlined into one function for each set of instructions that it is compiled for. */
static inline __attribute__((always_inline)) void compress_in_c(uint32_t state[8], const uint8_t *data,
                                                                size_t blocks)
{
    while (blocks--) {
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        uint32_t w[16];
        for (int i = 0; i < 16; i++)
            w[i] = big_endian(data + 4 * i);
        EIGHT_STEPS(0);
        EIGHT_STEPS(8);
        for (int i = 16; i < 64; i += 16) {
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++) {
                uint32_t early = w[(j + 1) & 15], late = w[(j + 14) & 15];
                w[j] += (rotate(early, 7) ^ rotate(early, 18) ^ early >> 3) + w[(j + 9) & 15] +
                        (rotate(late, 17) ^ rotate(late, 19) ^ late >> 10);
            }
            EIGHT_STEPS(i);
            EIGHT_STEPS(i + 8);
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;
        data += SHA256_BLOCK;
    }
}

static void compress_plain(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    compress_in_c(state, data, blocks);
}

/* --- x86-64 ----------------------------------------------------------------------------------------- */

#ifdef SHA256_X86

/* Rotations that name their result: a sixth less time. */
__attribute__((target("bmi,bmi2"))) static void compress_bmi2(uint32_t state[8], const uint8_t *data,
                                                              size_t blocks)
{
    compress_in_c(state, data, blocks);
}

/* The SHA extensions hold the state as (a b e f) and (c d g h), and do two rounds at a time. */
__attribute__((target("sha,sse4.1,ssse3"))) static void compress_sha(uint32_t state[8], const uint8_t *data,
                                                                     size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);

    while (blocks--) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i now = w[i & 3];
            __m128i sum = _mm_add_epi32(now, _mm_loadu_si128((const __m128i *)(ROUND + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (i < 12) {
                __m128i next = w[(i + 1) & 3], third = w[(i + 2) & 3], last = w[(i + 3) & 3];
                __m128i mixed = _mm_add_epi32(_mm_sha256msg1_epu32(now, next), _mm_alignr_epi8(last, third, 4));
                w[i & 3] = _mm_sha256msg2_epu32(mixed, last);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
        data += SHA256_BLOCK;
    }

    __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
    __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* GCC 12 has no name for it in __builtin_cpu_supports. */
static int has_sha(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

#endif

/* --- whichever is quickest here --------------------------------------------------------------------- */

static void (*compress)(uint32_t state[8], const uint8_t *data, size_t blocks) = compress_plain;

void sha256_choose(int plain)
{
    compress = compress_plain;
#ifdef SHA256_X86
    __builtin_cpu_init();
    if (plain)
        return;
    if (__builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
        compress = compress_bmi2;
    if (has_sha())
        compress = compress_sha;
#else
    (void)plain;
#endif
}

void sha256_init(Sha256 *hash)
{
    static const uint32_t start[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };
    memcpy(hash->state, start, sizeof start);
    hash->used = 0;
    hash->length = 0;
}

void sha256_update(Sha256 *hash, const void *bytes, size_t length)
{
    const uint8_t *data = bytes;
    hash->length += length;
    if (hash->used) {
        size_t room = SHA256_BLOCK - hash->used, part = length < room ? length : room;
        memcpy(hash->block + hash->used, data, part);
        hash->used += part;
        data += part;
        length -= part;
        if (hash->used < SHA256_BLOCK)
            return;
        compress(hash->state, hash->block, 1);
        hash->used = 0;
    }
    if (length >= SHA256_BLOCK) {
        size_t blocks = length / SHA256_BLOCK;
        compress(hash->state, data, blocks);
        data += blocks * SHA256_BLOCK;
        length -= blocks * SHA256_BLOCK;
    }
    memcpy(hash->block, data, length);
    hash->used = length;
}

void sha256_final(Sha256 *hash, uint8_t digest[SHA256_BYTES])
{
    uint64_t bits = hash->length * 8;
    hash->block[hash->used++] = 0x80;
    if (hash->used > SHA256_BLOCK - 8) {
        memset(hash->block + hash->used, 0, SHA256_BLOCK - hash->used);
        compress(hash->state, hash->block, 1);
        hash->used = 0;
    }
    memset(hash->block + hash->used, 0, SHA256_BLOCK - 8 - hash->used);
    for (int i = 0; i < 8; i++)
        hash->block[SHA256_BLOCK - 1 - i] = (uint8_t)(bits >> 8 * i);
    compress(hash->state, hash->block, 1);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++)
            digest[4 * i + j] = (uint8_t)(hash->state[i] >> (24 - 8 * j));
}

void sha256_of(uint8_t digest[SHA256_BYTES], const void *data, size_t length)
{
    Sha256 hash;
    sha256_init(&hash);
    sha256_update(&hash, data, length);
    sha256_final(&hash, digest);
}
