"""Where quantization errs: by layer, and which layer is to blame."""
