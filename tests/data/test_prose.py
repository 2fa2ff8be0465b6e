"""What is kept of a documentation string."""

import inspect

import pytest

from dwt_cli.data.prose import duplicate_key, prose

NUMPY_STYLE = """
Compute the weighted average along the specified axis.

.. versionadded:: 1.3

Parameters
----------
a : array_like
    Array containing the data to be averaged, which may be
    :class:`~pack.Masked` or ``nested``.
axis : None or int, optional
    Axis along which to average `a`. See [the guide](https://x.org/y) first.

Returns
-------
average : float
    The average along the specified axis [1]_.

Notes
-----
It is *not* the same as a median::

    total = sum(a) / len(a)

.. note:: The weights should never be negative in this function.

.. code-block:: python

    this should never be read as a sentence of the text

=====  ==========
name   meaning of the name in the table
=====  ==========

>>> average([1, 2])
this is the output of an example in the docstring

References
----------
.. [1] A. Author, "The book of the averages", in the press of the city.
"""
NUMPY_PROSE = [
    "Compute the weighted average along the specified axis.",
    "Array containing the data to be averaged, which may be Masked or nested.",
    "Axis along which to average a. See the guide first.",
    "The average along the specified axis.",
    "It is not the same as a median:",
    "The weights should never be negative in this function.",
]

GOOGLE_STYLE = """
Builds a mask from the lengths. It is $\\frac{a}{b}$ of a formula. The rest of it stays here.

Args:
    lengths (`torch.Tensor` of shape `(batch,)`, *optional*): The number of tokens that
        are in use in [`Model`].
    dtype: The type that the mask is made of.
    other (`bool`):
        Whether the mask is inverted before it is returned.

Returns:
    `torch.Tensor`: A mask that is true for the tokens in use.

```python
that is the code of an example, which is to be left out
```

- the first bullet is a sentence that goes on
  in the second line.
- The second of the bullets is here too.
:param x: The last of the parameters is this.
:type x: int or the name of a type
"""
GOOGLE_PROSE = [
    "Builds a mask from the lengths. The rest of it stays here.",
    "The number of tokens that are in use in Model.",
    "The type that the mask is made of.",
    "Whether the mask is inverted before it is returned.",
    "A mask that is true for the tokens in use.",
    "the first bullet is a sentence that goes on in the second line.",
    "The second of the bullets is here too.",
    "The last of the parameters is this.",
]


@pytest.mark.parametrize(
    ("text", "expected"), [(NUMPY_STYLE, NUMPY_PROSE), (GOOGLE_STYLE, GOOGLE_PROSE)]
)
def test_prose_is_what_a_reader_would_read_aloud(text: str, expected: list[str]) -> None:
    assert list(prose(inspect.cleandoc(text))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x = [a for b in c if d is not e]",
        "usage: prog [-h] [--foo FOO] {a,b} ...",
        "alpha beta gamma delta epsilon zeta eta theta",
        "0.1 0.2 0.3 0.4 0.5 0.6 0.7 and the 0.9",
        "Too short a text",
    ],
)
def test_what_is_no_sentence_is_left_out(text: str) -> None:
    assert list(prose(text)) == []


def test_paragraphs_that_differ_in_names_and_digits_are_duplicates() -> None:
    bert = duplicate_key("The bare BertModel outputs 2 hidden-states.")
    assert bert == duplicate_key("the bare GPT2Model  outputs 12 hidden states")
    assert bert != duplicate_key("The bare BertModel returns 2 hidden-states.")
