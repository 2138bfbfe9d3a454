/* What tests set on the emulated CUDA device (tests/emulate/cuda_runtime.h).  Whole programs are told by the
 * environment: MOONLIGHT_EMULATED_BYTES   how much memory the device seems to have; 64 GiB when not set
 *   MOONLIGHT_EMULATED_LOSS    after so many copies the device is lost */
#ifndef ML_TESTS_EMULATE_EMULATE_H
#define ML_TESTS_EMULATE_EMULATE_H

#ifdef __cplusplus
extern "C" {
#endif

/* The order in which a block's threads run between barriers, and blocks: 0 all threads to the next barrier, as
 * numbered; 1 and 2 each warp to the block's next barrier, the last or the first one first; others as 0, mixed.
 * Asynchronous copies and products are done at once in order 1, and as late as they may be in others; in order 2 copies
 * that arrive at a barrier by themselves are done at once, products late. */
void ml_emulate_set_order(unsigned seed);
/* How many devices there seem to be. */
void ml_emulate_set_device_count(int n);

/* How often the host has waited for the device so far. */
unsigned long long ml_emulate_count_waits(void);
/* Launches of graphs so far. */
unsigned long long ml_emulate_count_graph_launches(void);

#ifdef __cplusplus
}
#endif

#endif
