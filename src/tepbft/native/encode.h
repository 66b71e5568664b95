/* Writing msgpack, canonically: the shortest form of everything, as the library does it in Python. Callers
 * see to it that there is room; the MOST_ constants say how much the forms take at most. */
#ifndef TEPBFT_ENCODE_H
#define TEPBFT_ENCODE_H

#include <stdint.h>
#include <string.h>

#define MOST_HEAD 5 /* of an array or of bytes */
#define MOST_INTEGER 9

static inline uint8_t *write_big_endian(uint8_t *to, uint64_t value, int size)
{
    for (int i = size - 1; i >= 0; i--)
        *to++ = (uint8_t)(value >> 8 * i);
    return to;
}

static inline uint8_t *write_array(uint8_t *to, uint64_t count)
{
    if (count < 16) {
        *to++ = 0x90 | (uint8_t)count;
        return to;
    }
    int wide = count > UINT16_MAX;
    *to++ = wide ? 0xdd : 0xdc;
    return write_big_endian(to, count, wide ? 4 : 2);
}

static inline uint8_t *write_integer(uint8_t *to, uint64_t value)
{
    if (value < 0x80) {
        *to++ = (uint8_t)value;
        return to;
    }
    int power = value <= UINT8_MAX ? 0 : value <= UINT16_MAX ? 1 : value <= UINT32_MAX ? 2 : 3;
    *to++ = (uint8_t)(0xcc + power);
    return write_big_endian(to, value, 1 << power);
}

static inline uint8_t *write_bytes_head(uint8_t *to, uint64_t size)
{
    int power = size <= UINT8_MAX ? 0 : size <= UINT16_MAX ? 1 : 2;
    *to++ = (uint8_t)(0xc4 + power);
    return write_big_endian(to, size, 1 << power);
}

static inline uint8_t *write_bytes(uint8_t *to, const void *data, size_t size)
{
    to = write_bytes_head(to, size);
    memcpy(to, data, size);
    return to + size;
}

#endif
