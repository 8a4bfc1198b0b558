"""Numbers as few bytes, without loss: whole numbers, Huffman codes, positions of what is not zero, tensors.

    bits       whole numbers of a fixed width, and a reader that never goes beyond what is there
    huffman    canonical codes, of counts
    positions  where the non-zeros are: a bit each, or the steps from one to the next
    words      an array's bit patterns in the smallest of all these ways
    tensors    the same with its type and its shape

Bytes in and out; what is decoded may come from strangers. Every length is held against the bytes that are left before
anything is made of it, and what does not fit is a SlimError.
"""

from yolo_slim.compress.coding.tensors import decode, encode

__all__ = ["decode", "encode"]
