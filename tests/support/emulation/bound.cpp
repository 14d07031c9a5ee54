// Linked once before and once after the kernels, so that their __shared__ arrays, the only static memory
// they may change, lie between the two.
alignas(64) unsigned char EMULATION_BOUND[64];
