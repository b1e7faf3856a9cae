// The built-in example, made by NumPy, seed 42: np.random.seed(42); q, k, v = 0.1·randn, drawn in this
// order. Without a scale, scores = k·q, weights = softmax(scores) and expected = weights·v. Each array
// is its float32 elements, little-endian, in base64.

/** In words, where it comes from. */
export const origin = "NumPy, seed 42: np.random.seed(42); q, k, v = 0.1·randn";

/** `[16]` */
export const q =
  "QXRLPUCIYryJpYQ9UPUbPobRv7wUzr+8HrYhPq8rnT31S0C9iztePd7QPb1Owz69KzfGPH/rQ76woTC+H1BmvQ==";
/** `[16, 16]` */
export const k =
  "hW3PvTm3AD2d9rm9sp4QvhsVFj659Li8w0bdO+vkEb6r+l69T7w1PDe5673L4hk9iAV2vZ307ryDdXa9Xaw9PizpsLqDnti9C3WoPV8H+r3fGas8k6tIvpoBCL7LRKE86zyXPYlijDxoej28Bar2vJFmF76SbJO9eq08vad/2D3+vgw9C4k0vqu+BD3Ouh29NqKKveiKej0SJtM957m+PSvfq72KTv28fa8HPanKxz0PRUS9gxeYvNCT4r2t+/S9wWemPQXhCj549uu7B4bNPUkgFD3bHoS9EwcUPbV+HT4fymq7MjggPoYhhr5dU6g9MJ4OPGPy9LxDVxY87YZLvon0s7z3RRI9G1YXPpJIVL1alKW9CoVNvW95uz0OqAY9Yv1Yvf87Uj1HDR885WDGPc3Hj73eNQa9hZsgvSvdFb7tlPI8QtvVPNQLBjp9LMC8GO8QvtxLLL05YAy9b06kvREghLzOfyU9OyVBPp8Djzw7/NI8w/Hzu3B7RL7nwi27w1zFO2o8fD4FlZ28EAf3PLB8Y7tjWO+91QzqPfP+mT3bAKI9GD66vWqlDz6vjA++bWBwPXtNYD6i3Mq9n/RnvdBEIzxAOU69t8kevsuq4DtPj9m9xPtBPU9MvL2ath4+CGmgvZnqA727m6Y9vRT8vc9Vujz32QU+NpskvodAlzxg5dQ8CR6gPdhT/b37Nge+islVPTNK8zwoNM08u+cNPeJEi70iQ748wBXwPJdMkr0pDj8+/BRCPZ36871SdoY9ZJ3HvecxoT3HR+09ZBOovadMxT04Eyk9oVuoPUs7Qj6fBcm8e12avS0str30E6e9mqX8u2G8Cz1FquI8OmipPRxrqjqH1xQ+kM7YvM1Fiz79IoA9vouvvZtR273nnkU9iw+3vDE6kj2Q1kE9UqXuu2Fsrb3QHhu+feQ2vfdjrz23Yq88lyD/vazejTx10x09lgO1vfvcezwDvb47kBTqvbqMEj2FsmU9E8/dPZPR1z3HEg2+CxHAvV31Uj1dclI9qvZSPYZCxT411mk9WJDoPSthwz2qZ4U9YCIBvdlvmz1NRp69dwDCvA/ORr2BJAY8YwVtPj01P77Mi4w9YSQlvqVNQb1gBN89/aHSO9243L2EfpK9fy6LPT+Ulb2oUrE8b1SVO6Byhb01ils+ndOBPedfT75Ovpg8q4iHvQ+Urj3qTqK98/s7vMLXTj2CTrE9GtL1vf8CCb2giUK9Rc2FvVPIND5p4SU9UR0Bvmf6uz0NT1k+6nLTPV+VG76fV0a9UbsBPkPukL3XyTU9I6WePdvVvb19DcO78fOlvmrL0b1i5868x4v/va8oJz5MchK+Az40vZM0VjwelhM+RAgTvg==";
/** `[16, 16]` */
export const v =
  "SDfuPXUghjpTA8m9EEc9PdgRozxN2XW9O7rkOw/THb2g/Dk8t5qHPXtoIj4vgf29MGxaPs/kR75Ir3i8iPlwPUUw5jzHDn+9Z36qvOXuSb1gZ3G9n/+tPco7Ej1r6I298Ty4PWK9+zxjeaY9r/KAPTfHqb09c2W9tQuZPfcBej0P+wi7rDpAPDjVAj7CTnK9UhdgPd+ipbwPU7K8jQfhPZcLqT1Wm6Y9WK4FPpqmCTv6qYs9qCv+vE/HBD31OVW8D+sePL3Gcz1Ukqe9rUJWPkgIzr1zqvi9XS7tPe0hoj21o389Z6+APVqFoLr4wbe9emX4O8euir1btMc9V/BwvNQPqb2/owO9ACMpPc/mZr0HZKi96qDHPDetyDzYpE+98+9AvWcYvjyqSBS+0h8Qvisjk70d2668C7L+PJQTFz4Rpq89iwWDvM8/+bpqUc29x6fyuht47Lx/LwQ9umqpvW+5VD3V8xw+UDEyvIeKJD1sV409BFckvZqTtzwWDaU6UwggPPpPnr1AoSA76PpLPdyYFD5rdcQ9Y3xcPh0nnb26prI9mzGWPF88YD4ciqW9nPmrveCCdb2nfFm+allXvWt4m726Z3Y8t/sLPbIeQD6VpcI9u0xsvc7+t713fUk9HzEHvpiKOz6ijPE9oyxAvctsL770ogo+f6k7vDqB/T33RCO+B4F1vd91CTou8pk7yVg4vY0efz0Pptq9SEZpvKUXRTzStlI9Hr2RPaNT5r3iFx2+iNUCPqcdCD1ASpm9hdYePnaFPTwjhfE9mz7dO0UFUz41vzM+kfPLvE36xj1KLIQ92yUMPsedxb3bgIw97cPYPU0YNL7TVPK9QNFQvrWy3Lzh85I9Y9cZPjXL8jsuxSY+iFINvidtLr7KBLa7L1AdPbBEVrvCtFO+pwMSvOOTBb4hJok9nSgWPcV8wL3aelK9S+3YvQpjzbv3nMM9b+DJvRt1Tj2LMVm9X2GivcpbL7yDBNS9V8ZivU1T9b0XMEk+bRpnO8VNj73XSq88zQk4vK8EtbwLkHs9OCObPRNLWb3r2mu9hVLhvHu3a77TJxu+yvcLPtdxKD6lAsy8YihsPeP5/jyCo50++EnlPYeUUbzXscO9B4AkvmutpjyQ5pq9h6MRvgtrhL1DgN29aMMsPlGPtD19/1C62YsXPj2F/TsZZLC9yfcbPtC8XD2SbdS96uybvJ5Ts71EmQ2+Ya69PTeGQz6cNg++mpdmPWlAhb3Nhke9AqVyvQDysL3k/p47uC2qveiO3TzInqS7Cr/DvHreub3bPmy9QrSaPfosTT0MNMi9/b4iPFPimT118iq+co9ePZK0h72bt2k9w1CcvefROL4NqSa+lJCdOw==";
/** `[16]` */
export const scores =
  "MoQOvf0agLyIBkY9koqKPW/mIz2Yj5s8oKcAu8AeQLvsEJO7oLASO7CJbT0IOAm7puRtPcgYRb2Q8108MHZ8vQ==";
/** `[16]` */
export const weights =
  "zf50Pde7eT0UHoU9NbaHPVYDhD0zRIE9GCx9PVztfD2oiHw9+Dx+PWhohj2fI309YmuGPZrAcT2UkIA9sYFuPQ==";
/** `[16]` */
export const expected =
  "TUcZvJtrx7zE5kg7u0HAPJ8nnjz2njO7GYOEvKq0k7zPTMM7GoZuPepLlTwhaPG8RiQruyHRG70jHYM8+uX+Ow==";
