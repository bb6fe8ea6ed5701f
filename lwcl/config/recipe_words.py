"""What each recipe does, in words, for `lwcl list recipes NAME`."""

RECIPE_WORDS = {
    "simclr": "Shows the network two random crops of each image and trains it to tell that they belong together, among "
    "the crops of all other images of the batch. It needs no queue and no second network, so it learns in few steps: "
    "the default below 200,000 images.",
    "moco-v2": "Compares each crop with another crop of the same image, and with thousands of earlier images that wait "
    "in a queue. The queue is filled by a slow copy of the network, the momentum encoder. It is what the other recipes "
    "are measured against.",
    "ssl-small": "MoCo v2 made harder for small networks: stronger colour changes, a sharper softmax and a wider head. "
    "Small networks otherwise learn to tell crops apart without grouping similar images.",
    "light": "MoCo v2 with softer targets: a fifth of each target goes to the ten images in the queue that look most "
    "like the query, so similar images are not pushed apart. Both crops serve as query and as key, which doubles the "
    "work of a step. The default from 200,000 images on.",
    "swav": "Sorts images into trained clusters and asks that all crops of an image fall into one. It compares "
    "no images with each other, and adds six small crops of each. With few images it may put all of them into one.",
    "msf": "Pulls each image towards its nearest neighbours as a slow copy of the network sees them; nothing is pushed "
    "apart. It is sensitive to a bad start, and was published for ResNet-50.",
    "isd": "Asks that an image be as similar to a memory of other images as a slow copy of the network finds it: what "
    "CompRess does with a teacher, without one.",
    "disco": "MoCo v2, and in addition the embedding of each image must agree with that of a larger, pretrained "
    "teacher. The default of `lwcl distill`.",
    "seed": "The teacher says how similar an image is to thousands of others in a queue, and the student learns "
    "the same answer. It needs one crop an image, and works for very small networks.",
    "compress-2q": "Student and teacher each keep a memory of their own features; an image must be as similar to the "
    "student's memory as it is to the teacher's. The default of `lwcl compress` from 200,000 images on.",
    "compress-1q": "As compress-2q with the teacher's memory for both, so student and teacher must share a space.",
    "regression": "The student learns to predict the teacher's features of the same image. It is the simplest way to "
    "learn from a teacher, and with few images the best: the default of `lwcl compress` below 200,000 images.",
    "cluster-classify": "The teacher's features are clustered once, and the student learns to name each image's "
    "cluster, as if it were a class.",
    "s2-bnn": "For networks of few bits: the student learns the teacher's embedding as a distribution over its "
    "dimensions, which needs no memory and no other images.",
}
