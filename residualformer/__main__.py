from residualformer.cli import main

main()
