"""Parts of the corpus `phrases`: sentences of a grammar, other sentences, and engines that speak them."""
