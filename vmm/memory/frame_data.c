/* SPDX-License-Identifier: MIT */
/* What is in a frame: compared with zeroes, copied. */
#include <emmintrin.h>

#include "vmm/memory/internal.h"

bool frame_data_zero(const void *frame)
{
	const __m128i *in = frame;
	const __m128i zero = _mm_setzero_si128();

	for (size_t i = 0; i < FRAME_SIZE / sizeof(*in); i += 4) {
		__m128i a = _mm_or_si128(_mm_load_si128(&in[i]), _mm_load_si128(&in[i + 1]));
		__m128i b = _mm_or_si128(_mm_load_si128(&in[i + 2]), _mm_load_si128(&in[i + 3]));

		if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_or_si128(a, b), zero)) != 0xffff)
			return false;
	}
	return true;
}

void frame_data_copy(void *dst, const void *src)
{
	const __m128i *in = src;
	__m128i *out = dst;

	for (size_t i = 0; i < FRAME_SIZE / sizeof(*in); i += 4) {
		__m128i a = _mm_load_si128(&in[i]);
		__m128i b = _mm_load_si128(&in[i + 1]);
		__m128i c = _mm_load_si128(&in[i + 2]);
		__m128i d = _mm_load_si128(&in[i + 3]);

		_mm_stream_si128(&out[i], a);
		_mm_stream_si128(&out[i + 1], b);
		_mm_stream_si128(&out[i + 2], c);
		_mm_stream_si128(&out[i + 3], d);
	}
	/* Seen by everybody before anybody is told that the copy is there. */
	_mm_sfence();
}
