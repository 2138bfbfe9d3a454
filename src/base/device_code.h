/* Functions of a header that this machine's compiler and the GPU's both compile. */
#ifndef ML_BASE_DEVICE_CODE_H
#define ML_BASE_DEVICE_CODE_H

#ifdef __CUDACC__
#define ML_HERE_AND_THERE __host__ __device__
#else
#define ML_HERE_AND_THERE
#endif

#endif
