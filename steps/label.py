"""Label audio that has no text: one or two recognizers hear it, and what they agree on becomes cuts with texts.

Reads all audio in DIR and below; writes under OUT: cuts_labeled.jsonl.gz, which egs/custom/run.sh takes as its --data;
dropped.tsv, which names the other files and why; and heard.jsonl, what was heard, so that a run that was stopped goes
on, and one with another --max-wer hears nothing again. Texts are English in capital letters without punctuation but
apostrophes; recordings in which other characters are heard, such as digits, are left out.
"""

from __future__ import annotations

from residualformer.errors import UserError, run_main
from residualformer.label.options import add_label_options, check_label_options, label_folder
from residualformer.workflow.options import OptionParser, caller_path, positive_whole_number, real_number


def main() -> None:
    parser = OptionParser(__doc__, "label.py")
    add = parser.add_argument
    add("--audio", type=caller_path, required=True, metavar="DIR", help="folder of recordings, used in place")
    add("--out", type=caller_path, required=True, metavar="DIR", help="folder for what is made")
    add_label_options(parser)
    add("--min-seconds", type=real_number, default=0.2, metavar="S", help="shorter ones are left out (%(default)s)")
    add("--max-seconds", type=real_number, default=30.0, metavar="S", help="longer ones are left out (%(default)s)")
    add("--jobs", type=positive_whole_number, default=1, metavar="N", help="processes (default %(default)s)")
    args = parser.parse_args()
    check_label_options(args)
    if not args.audio.is_dir():
        raise UserError(f"--audio {args.audio} is not a folder: give the folder of the recordings.")
    label_folder(args, args.audio, args.out, limits=(args.min_seconds, args.max_seconds))


if __name__ == "__main__":
    run_main(main)
