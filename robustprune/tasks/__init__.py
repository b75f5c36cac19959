"""Load data sets as `Task`s: packaged series, downloaded images, and the user's own arrays."""

from robustprune.tasks.batches import BatchLoader
from robustprune.tasks.corpus import Corpus, corpus_names, load_corpus
from robustprune.tasks.load import load_task, task_names
from robustprune.tasks.own import read_own
from robustprune.tasks.parts import own_examples, own_task
from robustprune.tasks.repeats import told_repeats
from robustprune.tasks.split import dealt, held_out, holdout
from robustprune.tasks.task import Augment, Split, Task
from robustprune.tasks.text import load_sentences, text_names, text_task
from robustprune.tasks.text_files import Sentences

__all__ = [
    "Augment",
    "BatchLoader",
    "Corpus",
    "Sentences",
    "Split",
    "Task",
    "corpus_names",
    "dealt",
    "held_out",
    "holdout",
    "load_corpus",
    "load_sentences",
    "load_task",
    "own_examples",
    "own_task",
    "read_own",
    "task_names",
    "text_names",
    "text_task",
    "told_repeats",
]
