"""Random programs, valid and faulting, and what one instruction of them draws."""
