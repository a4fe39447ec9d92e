"""Draws single random instructions that are valid after the instructions before them."""

from systol_sim.random_programs.elementwise_proposals import ElementwiseDraws
from systol_sim.random_programs.matrix_proposals import MatrixDraws
from systol_sim.random_programs.transfer_proposals import TransferDraws


class Proposer(TransferDraws, MatrixDraws, ElementwiseDraws):
    """All draws together: `load`, `store`, `weights`, `matmul` and `vector`."""
