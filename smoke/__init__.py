"""banger on an installed host, for real: in a virtual machine whose emulated processor has SVM."""
