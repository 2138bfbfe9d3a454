/* What a kernel does that decides about a step (optim/optimizer.h: ml_update_control). */
#ifndef ML_OPTIM_CUDA_CONTROL_CUH
#define ML_OPTIM_CUDA_CONTROL_CUH

/* One more update is made, with gradients times grad_scale. */
static __device__ __forceinline__ void ml_control_use(ml_update_control *c, float grad_scale, double beta1,
                                                      double beta2)
{
    c->use = 1;
    c->grad_scale = grad_scale;
    c->step++;
    c->correction = (float)(1.0 / sqrt(1.0 - pow(beta2, (double)c->step)));
    c->unbias = (float)(1.0 / (1.0 - pow(beta1, (double)c->step)));
}

#endif
