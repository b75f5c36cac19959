"""English stop words, which carry the grammar of a sentence and which attacks do not change."""

from __future__ import annotations

_ENGLISH = """
    a about above across after afterwards again against ain't all almost along already also
    although am among amongst an and another any anybody anyhow anyone anything anyway anywhere
    are aren't around as at back be because been before beforehand behind being below beside
    besides between beyond both but by ca can can't cannot could couldn't d did didn't do does
    doesn't doing don't done down due during each either else elsewhere enough even ever everyone
    everything everywhere except first for former formerly from further furthermore had hadn't has
    hasn't have haven't having he he'd he'll he's hence her here here's hereafter hereby herein
    hers herself him himself his how how's however hundred i i'd i'll i'm i've if in indeed into
    is isn't it it'd it'll it's its itself just latter latterly least let's ll m many may maybe me
    meanwhile might mine more moreover most mostly much must mustn't my myself n't namely needn't
    neither never nevertheless next no nobody none nor not nothing now nowhere o of off often on
    once one only onto or other others otherwise our ours ourselves out over own per perhaps
    please quite rather re s same seem seemed seeming seems several shan't she she'd she'll she's
    should shouldn't since so some somebody somehow someone something sometime sometimes somewhere
    still such t than that that'll that's the their theirs them themselves then thence there
    there's thereafter thereby therefore therein these they they'd they'll they're they've this
    those though through throughout thru thus to together too toward towards under unless until up
    upon us ve very was wasn't we we'd we'll we're we've well were weren't what what's whatever
    when when's whence whenever where where's whereas whereby wherever whether which while whither
    who who's whoever whole whom whose why why's will with within without wo won't would wouldn't
    y yet you you'd you'll you're you've your yours yourself yourselves
"""

#: in lower case, with parts of contractions as in tokenised corpora ("ca n't", "it 's")
STOP_WORDS = frozenset(_ENGLISH.split())


def is_stop_word(word: str) -> bool:
    """Return whether a word, in any case and with either kind of apostrophe, is a stop word."""
    return word.lower().replace("’", "'") in STOP_WORDS
